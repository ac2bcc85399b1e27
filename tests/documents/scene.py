"""A scene: documented commands run for real, in the order in which a reader would give them.

Steps as data, and the player of them. Where they are played, `tests.documents.stage` says.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, assert_never

from tests.documents.extract import ROOT
from tests.services.detection.redis_server import RedisServer
from tests.services.postgres import Cluster
from transport.server import find_server

READY_SECS = 60.0
OTHER_AGENT = 7
"""The agent's exit code where another one runs on this machine."""
OTHER_AGENT_SECS = 600.0
_COMMAND_SECS = 120.0


@dataclass(frozen=True)
class Run:
    """A command that ends by itself.

    Args:
        text: the command, as documented.
        code: its exit code, or those that it may have.
        says: what must be in what it prints.
        fill: words that stand for something, and the command whose output takes their place.
        within_secs: try again until it is so.
        ours: the reader's own doing; not a documented command.
    """

    text: str
    code: int | tuple[int, ...] = 0
    says: str = ""
    fill: Mapping[str, str] = field(default_factory=dict)
    within_secs: float = 0.0
    ours: bool = False


@dataclass(frozen=True)
class Serve:
    """A command that runs until it is stopped.

    Args:
        text: the command, as documented.
        until: what it prints when it is ready.
        name: for `Stop`.
        codes: exit codes of a good end.
        ours: not a documented command.
    """

    text: str
    until: str
    name: str
    codes: tuple[int, ...] = (0,)
    ours: bool = False


@dataclass(frozen=True)
class Stop:
    """Ctrl+C for what was served under a name."""

    name: str


@dataclass(frozen=True)
class Hear:
    """What was served under a name prints this, sooner or later."""

    name: str
    says: str


@dataclass(frozen=True)
class Have:
    """Something that must be there first: ``postgres``, ``redis``, ``nats-server``."""

    what: str


Step: TypeAlias = Run | Serve | Stop | Hear | Have


class Player:
    """Plays steps.

    Args:
        folder: for output.
        stack: what is to be undone at the end.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._served: dict[str, tuple[Serve, subprocess.Popen[bytes], Path]] = {}
        tools = folder / "bin"
        tools.mkdir()
        if shutil.which("sudo") is None:  # root needs none
            (tools / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
            (tools / "sudo").chmod(0o755)
        path = f"{ROOT / '.venv' / 'bin'}:{tools}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
        self.environment.pop("LAVENDER_CONFIG", None)

    def play(self, step: Step) -> None:
        """Do one step, or fail."""
        began = time.monotonic()
        match step:
            case Run():
                self._run(step)
            case Serve():
                self._serve(step)
            case Stop():
                self._stop(step.name)
            case Hear():
                self._hear(step)
            case Have():
                _PARTS[step.what](self)
            case _:
                assert_never(step)
        what = step.name if isinstance(step, Stop) else getattr(step, "text", step)
        kind, secs = type(step).__name__, time.monotonic() - began
        sys.stderr.write(f"{secs:5.1f} s  {kind:5}  {what}\n")

    def close(self) -> None:
        """Stop what still runs, the last first."""
        for name in reversed(list(self._served)):
            self._stop(name)

    def _run(self, step: Run) -> None:
        text = step.text
        for word, command in step.fill.items():
            text = text.replace(word, self._output(command)[1].strip())
        if text.startswith("export "):
            self.environment |= dict(each.split("=", 1) for each in shlex.split(text)[1:])
            return
        deadline = time.monotonic() + step.within_secs
        while True:
            code, said = self._output(text)
            allowed = (step.code,) if isinstance(step.code, int) else step.code
            if code in allowed and step.says in said:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{text}\nexit code {code}; it said:\n{said[-4000:]}")
            time.sleep(0.3)

    def _output(self, text: str) -> tuple[int, str]:
        done = subprocess.run(
            ["/bin/bash", "-c", text],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_SECS,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def _serve(self, step: Serve) -> None:
        deadline = time.monotonic() + OTHER_AGENT_SECS
        while not self._served_once(step):
            assert time.monotonic() < deadline, "another agent runs on this machine"
            time.sleep(1)

    def _served_once(self, step: Serve) -> bool:
        log = self._folder / f"{step.name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["/bin/bash", "-c", f"exec env {step.text}"],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECS
        while step.until not in log.read_text(errors="replace"):
            if process.poll() is not None and "another Lavender agent runs" in log.read_text():
                return False
            if process.poll() is not None or time.monotonic() > deadline:
                _end(process, signal.SIGKILL)
                raise AssertionError(f"{step.text}\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        self._served[step.name] = step, process, log
        return True

    def _hear(self, step: Hear) -> None:
        log = self._served[step.name][2]
        deadline = time.monotonic() + READY_SECS
        while step.says not in (said := log.read_text(errors="replace")):
            assert time.monotonic() < deadline, f"{step}; it said:\n{said[-4000:]}"
            time.sleep(0.05)

    def _stop(self, name: str) -> None:
        step, process, log = self._served.pop(name)
        code = process.poll()
        if code is None:
            _end(process, signal.SIGINT)
            try:
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                _end(process, signal.SIGKILL)
                raise
        if code not in step.codes:
            said = log.read_text(errors="replace")[-4000:]
            raise AssertionError(f"{step.text}\nexit code {code}; it said:\n{said}")

    def have_postgres(self) -> None:
        """PostgreSQL on its usual port, with a database and a user."""
        folder = Path(tempfile.mkdtemp(prefix="lavender-documents-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        made = Cluster(folder / "cluster", port=5432)
        made.start()
        self._stack.callback(made.stop)
        made.sql("CREATE DATABASE lavender")
        self.environment["PGPASSWORD"] = "correct-horse"

    def have_redis(self) -> None:
        """Redis on its usual port."""
        made = RedisServer(self._folder / "redis", port=6379)
        made.start()
        self._stack.callback(made.kill)

    def have_nats_server(self) -> None:
        """`nats-server` on the PATH, as a package puts it there."""
        link = self._folder / "bin" / "nats-server"
        link.symlink_to(find_server())


_PARTS: Mapping[str, Callable[[Player], None]] = {
    "postgres": Player.have_postgres,
    "redis": Player.have_redis,
    "nats-server": Player.have_nats_server,
}


def _end(process: subprocess.Popen[bytes], number: int) -> None:
    """A signal for a command and what it started, as a terminal gives it."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
