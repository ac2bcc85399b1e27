"""The rig: workloads, an agent or bpftrace beside them, and the kernel's accounts."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WATCHING = "Lavender is watching"
ALREADY_RUNNING = 7
_TICKS = os.sysconf("SC_CLK_TCK")


class Rig:
    """A folder with the compiled workloads and the files they touch."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lavender-bench-"))
        self.program = self.folder / "workload"
        self.shell = self.folder / "benchsh"
        """The same program under a name that can be made a shell's."""
        self.file = self.folder / "plain.txt"
        self.secret = self.folder / "secret.key"
        self.file.touch()
        self.secret.touch()
        source = Path(__file__).with_name("workload.c")
        subprocess.run([_tool("gcc"), "-O2", "-o", self.program, source], check=True)
        shutil.copy(self.program, self.shell)

    def run(self, *words: str | Path | float) -> list[float]:
        """Run a workload; the numbers it printed."""
        done = subprocess.run(
            [self.program, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True
        )
        return [float(word) for word in done.stdout.split()]

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


def cpu_secs(pid: int) -> float:
    """CPU time a process has used, user and system; the kernel's accounts in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no VmRSS")


class Agent:
    """A running agent: its pid, how long it took to watch, and, once stopped, its last words."""

    def __init__(self, process: subprocess.Popen[str], errors: Path, start_secs: float) -> None:
        self.process = process
        self.pid = process.pid
        self.start_secs = start_secs
        self._errors = errors

    def cpu_secs(self) -> float:
        """CPU time so far, of all its threads."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks) / 1e9

    def stop(self) -> dict[str, dict[str, int]]:
        """Stop it; the probes' counters."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        for text in self.lines():
            if text.get("event") == "stopped":
                probes: dict[str, dict[str, int]] = text["probes"]
                return probes
        raise AssertionError(
            f"the agent said nothing of its end: {self._errors.read_text()[-2000:]}"
        )

    def lines(self) -> list[dict[str, Any]]:
        """What it printed on standard error."""
        return [json.loads(t) for t in self._errors.read_text().splitlines() if t.startswith("{")]


@contextmanager
def agent(rig: Rig, *words: str, output: str = "json", **overrides: str) -> Iterator[Agent]:
    """The agent with the shipped configuration, its output thrown away by the kernel."""
    errors = rig.folder / "stderr"
    environment = {
        **os.environ,
        "LAVENDER_CONFIG": str(ROOT / "lavender.toml"),
        "LAVENDER_PUBLISH__ENABLED": "false",
        **overrides,
    }
    process, seconds = _start(["--output", output, *words], environment, errors)
    try:
        yield Agent(process, errors, seconds)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _start(
    words: list[str], environment: dict[str, str], errors: Path
) -> tuple[subprocess.Popen[str], float]:
    """An agent that watches, and the seconds it took; waits while another one runs."""
    while True:
        begin = time.monotonic()
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "actors.agent", *words],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=sink,
                text=True,
            )
        while WATCHING not in errors.read_text():
            if process.poll() is not None or time.monotonic() - begin > 30:
                break
            time.sleep(0.002)
        else:
            return process, time.monotonic() - begin
        process.kill()
        if process.wait() != ALREADY_RUNNING:
            raise AssertionError(f"the agent did not start: {errors.read_text()}")
        time.sleep(0.2)


_FILE_PROBE = (
    "tracepoint:syscalls:sys_enter_%s "
    '{ printf("{\\"%s\\":%%d,\\"file\\":\\"%%s\\"}\\n", pid, str(args->filename)); }\n'
)
_BPFTRACE = (
    _FILE_PROBE % ("execve", "exec")
    + _FILE_PROBE % ("openat", "open")
    + 'tracepoint:syscalls:sys_enter_connect { printf("{\\"connect\\":%d}\\n", pid); }\n'
    'tracepoint:sched:sched_process_exit { printf("{\\"exit\\":%d}\\n", pid); }\n'
    'BEGIN { printf("ready\\n"); }\n'
)


# It looks for tracepoints in debugfs only, which a machine need not have mounted: then it gets one
# that nobody else sees.
_WITH_TRACEFS = (
    "d=/sys/kernel/debug; [ -d $d/tracing/events ] || { mount -t debugfs debugfs $d && "
    'mount -t tracefs tracefs $d/tracing; }; exec "$@"'
)


class BpftraceError(Exception):
    """bpftrace does not run here; the message is its own."""


@contextmanager
def bpftrace() -> Iterator[int]:
    """bpftrace printing the same four tracepoints as JSON into a pipe nobody looks at; its pid.

    Raises:
        BpftraceError: it ended, or said nothing for half a minute, instead of starting.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [
                *(_tool("unshare"), "--mount", "sh", "-c", _WITH_TRACEFS, "sh"),
                *(_tool("bpftrace"), "-e", _BPFTRACE),
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "BPFTRACE_PERF_RB_PAGES": "1024"},
        )
        assert process.stdout is not None
        drain = None
        try:
            seen = b""
            while b"ready" not in seen:
                waiting = select.select([process.stdout], [], [], 30)[0]
                part = os.read(process.stdout.fileno(), 65536) if waiting else b""
                if not part:  # nothing came, or it has ended
                    errors.seek(0)
                    raise BpftraceError(errors.read().decode(errors="replace").strip())
                seen += part
            drain = subprocess.Popen(
                [_tool("cat")], stdin=process.stdout, stdout=subprocess.DEVNULL
            )
            time.sleep(0.5)
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.close()
            _end(process)
            if drain is not None:
                _end(drain)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
