"""A real agent for the kernel tests: started as a user starts it, read as a user reads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
WATCHING = "Lavender is watching. Ctrl+C to stop"
ALREADY_RUNNING = 7
START_WITHIN_SECS = 600.0
"""Another agent on this machine may have to end first."""
AGENT = ("-m", "actors.agent")

Line = dict[str, Any]
T = TypeVar("T")
_running: list[Endpoint] = []
"""The agent of these tests that runs now, if any."""


class Recording:
    """The events of a ``--record`` file that is still being written, one dict each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Line] = []
        self._read_to = 0

    def refresh(self) -> list[Line]:
        """Everything recorded so far; an unfinished last line waits for the next call."""
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if self._read_to:
                    self.events += json.loads(line)
                self._read_to += len(line)
        return self.events


class Endpoint:
    """A running agent and what it has printed so far, as parsed lines.

    Args:
        process: the agent; its standard output may be somewhere else than in a pipe of ours.
        record: its ``--record`` file.
        reads_stdout: False leaves the pipe to the test.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        record: Path | None = None,
        reads_stdout: bool = True,
    ) -> None:
        self.process = process
        self.events: list[Line] = []
        self.alerts: list[Line] = []
        self.responses: list[Line] = []
        self.statuses: list[Line] = []
        self.logs: list[Line] = []
        self.text: list[str] = []
        self.malformed: list[bytes] = []
        """Lines of standard output that are not one JSON object each."""
        self.stdout_lines: list[bytes] = []
        self.alert_lines: list[bytes] = []
        self.watching = threading.Event()
        self.recording = None if record is None else Recording(record)
        self._threads = [threading.Thread(target=self._read_rest, daemon=True)]
        if reads_stdout and process.stdout is not None:
            self._threads.append(threading.Thread(target=self._read_events, daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            self.stdout_lines.append(raw)
            try:
                self.events.append(json.loads(raw))
            except ValueError:
                self.malformed.append(raw)

    def _read_rest(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            try:
                line = json.loads(raw)
            except ValueError:
                self.text.append(raw.decode(errors="backslashreplace").rstrip("\n"))
                if WATCHING in self.text[-1]:
                    self.watching.set()
                continue
            kinds = {"response": self.responses, "status": self.statuses, "log": self.logs}
            if line.get("type") == "alert":
                self.alert_lines.append(raw)
                self.alerts.append(line)
            else:
                kinds[line["kind"]].append(line)

    def wait_for(self, found: Callable[[], T | None], *, within_secs: float = 10.0) -> T:
        """Poll until ``found`` returns something true; that thing."""
        deadline = time.monotonic() + within_secs
        while time.monotonic() < deadline:
            result = found()
            if result:
                return result
            time.sleep(0.02)
        raise AssertionError(
            f"not seen in {within_secs} s; exit {self.process.poll()}; "
            f"stderr says: {self.text[-5:]}, {self.logs[-5:]}"
        )

    # What it said

    def alerts_about(self, **values: Any) -> list[Line]:
        """Alerts so far whose fields have these values."""
        return [line for line in list(self.alerts) if _matches(line, values)]

    def alert(self, rule: str, pid: int | None = None, **values: Any) -> Line:
        """The first alert of a rule (of a process); waits for it."""
        wanted = {"rule": rule, **({} if pid is None else {"pid": pid}), **values}
        return self.wait_for(lambda: next(iter(self.alerts_about(**wanted)), None))

    def rules_of(self, pid: int) -> set[str]:
        """Labels of the rules that matched on a process, once everything so far was judged."""
        self.settle()
        return {alert["rule"] for alert in self.alerts_about(pid=pid)}

    def printed(self, **values: Any) -> Line:
        """The first line of standard output with these values; waits for it."""
        return self.wait_for(
            lambda: next((line for line in list(self.events) if _matches(line, values)), None)
        )

    # What it saw

    def seen(self, **values: Any) -> list[Line]:
        """Recorded events with these values, so far."""
        assert self.recording is not None, "this agent does not record"
        return [event for event in self.recording.refresh() if _matches(event, values)]

    def event(self, **values: Any) -> Line:
        """The first recorded event with these values; waits for it."""
        return self.wait_for(lambda: next(iter(self.seen(**values)), None))

    def settle(self) -> None:
        """Wait until everything that happened before this call was judged, printed, recorded."""
        word = uuid.uuid4().hex
        # runuser begins a session: repeats of an alert in one lineage are not all told.
        session = ["/usr/sbin/runuser", "-u", "root", "--"]
        marker = subprocess.Popen([*session, "/bin/sh", "-c", f": base64 {word}"])
        marker.wait()
        self.wait_for(lambda: any(word in alert["detail"] for alert in list(self.alerts)))
        if self.recording is not None:
            self.event(type="exec", pid=marker.pid)

    def forget_events(self) -> None:
        """Let go of the lines of standard output so far."""
        self.events.clear()
        self.stdout_lines.clear()

    # Its life

    def stop(self, *, within_secs: float = 20.0) -> int:
        """SIGTERM, and the exit code; everything it printed has been read."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(within_secs)
        for thread in self._threads:
            thread.join(5)
        return code

    def stopped(self) -> Line:
        """The log line that says how it ended; only after `stop`."""
        return next(line for line in self.logs if line["event"] == "stopped")

    def proc(self, name: str) -> str:
        """A file of the agent's folder in /proc."""
        return Path(f"/proc/{self.pid}/{name}").read_text()

    def rss_bytes(self) -> int:
        """Resident memory."""
        return int(self.proc("statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - only their number


def _matches(line: Line, values: dict[str, Any]) -> bool:
    return all(line.get(key) == value for key, value in values.items())


def assert_balanced(probes: dict[str, dict[str, int]]) -> None:
    """Each probe accounts for every event it has seen, exactly."""
    for probe, counts in probes.items():
        rest = {name: value for name, value in counts.items() if name != "seen"}
        assert counts["seen"] == sum(rest.values()), f"{probe}: {counts}"


def start_agent(
    words: Sequence[str],
    *,
    config: Path | None = None,
    program: Sequence[str] = AGENT,
    prefix: Sequence[str] = (),
    stdout: int = subprocess.PIPE,
    **overrides: str,
) -> subprocess.Popen[bytes]:
    """Start an agent and return at once."""
    chosen = str(config or ROOT / "lavender.toml")
    return subprocess.Popen(
        [*prefix, sys.executable, *program, *words],
        cwd=ROOT,
        env={
            **os.environ,
            "LAVENDER_CONFIG": chosen,
            "LAVENDER_PUBLISH__ENABLED": "false",
            **overrides,
        },
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def run_agent(
    *words: str, config: Path | None = None, retry: bool = True, **options: Any
) -> tuple[int, str, str]:
    """Run an agent that ends by itself: exit code, standard output, standard error.

    Args:
        words: its arguments.
        config: its configuration file.
        retry: wait for another agent on this machine to end.
        options: as `start_agent` takes them.
    """
    deadline = time.monotonic() + START_WITHIN_SECS
    while True:
        process = start_agent(words, config=config, **options)
        stdout, stderr = process.communicate(timeout=60)
        if process.returncode != ALREADY_RUNNING or not retry or time.monotonic() > deadline:
            return process.returncode, stdout.decode(), stderr.decode()
        time.sleep(0.5)


@contextmanager
def endpoint(
    *words: str,
    config: Path | None = None,
    record: Path | None = None,
    program: Sequence[str] = AGENT,
    prefix: Sequence[str] = (),
    stdout: int = subprocess.PIPE,
    reads_stdout: bool = True,
    keep_pins: bool = False,
    **overrides: str,
) -> Iterator[Endpoint]:
    """An agent with the shipped configuration, or ``config``, and environment overrides.

    One that was killed leaves its probes running, for the next one of its name to take over; that
    is prevented here, unless with ``keep_pins``.

    Only one agent may run on a machine: if another does, this one waits for it to end.
    """
    assert not _running, "an agent of these tests runs already: this one would wait for ever"
    deadline = time.monotonic() + START_WITHIN_SECS
    if record is not None:
        words = (*words, "--record", str(record))
    while True:
        process = start_agent(
            words, config=config, program=program, prefix=prefix, stdout=stdout, **overrides
        )
        running = Endpoint(process, record=record, reads_stdout=reads_stdout)
        while not running.watching.wait(0.05) and process.poll() is None:
            assert time.monotonic() < deadline, "the agent did not start"
        if process.poll() == ALREADY_RUNNING and time.monotonic() < deadline:
            _close(process)
            time.sleep(0.5)
            continue
        break
    try:
        assert process.poll() is None, f"exit {process.poll()}: {running.text}"
        _running.append(running)
        yield running
    finally:
        _running.clear()
        if process.poll() is None:
            process.kill()
            process.wait()
        _close(process)
        if process.returncode == -signal.SIGKILL and not keep_pins:
            run_agent("--detach", config=config, retry=False, **overrides)


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
