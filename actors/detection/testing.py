"""Test kit: a make-believe host whose processes do what a test tells them.

Every event goes to an engine; the alerts come back. Time moves a millisecond per event, and by
``wait``. Start times are whole clock ticks, as the kernel's are.
"""

from __future__ import annotations

from typing import Any

from actors.detection.alerts import Alert
from actors.detection.builtin import builtin_set
from actors.detection.engine import Engine
from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    Identity,
    ListenEvent,
    OpenEvent,
    SeedEvent,
)
from actors.detection.settings import FilterSettings

TICK_NS = 10_000_000
_EVENT_NS = 1_000_000
_BOOT_NS = 1_000_000_000_000


class Host:
    """A host with init, an sshd and one login shell, all trusted.

    Args:
        filters: Settings that differ from the defaults, as in ``[filters]``.
    """

    def __init__(self, **filters: Any) -> None:
        self.engine = Engine(builtin_set(FilterSettings(**filters)))
        self.now_ns = _BOOT_NS
        self.events: list[AnyEvent] = []
        self._next_pid = 100
        self._comms: dict[Identity, str] = {}
        self._parents: dict[Identity, Identity] = {}
        self.init = self.seed(None, "/usr/lib/systemd/systemd", pid=1)
        self.sshd = self.seed(self.init, "/usr/sbin/sshd")
        self.bash = self.seed(self.sshd, "/usr/bin/bash")

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += int(seconds * 1e9)

    def emit(self, event: AnyEvent) -> list[Alert]:
        """Give the engine an event; return its alerts."""
        self.events.append(event)
        return self.engine.process(event)

    def seed(
        self, parent: Identity | None, exe: str, *, system: bool = True, pid: int = 0
    ) -> Identity:
        """Have a process that was there before."""
        identity = self._new_process(pid)
        ppid, parent_start_ns = parent or (0, 0)
        comm = self._comms[identity] = _comm(exe)
        self.emit(
            SeedEvent(
                **self._stamp(identity),
                ppid=ppid,
                parent_start_ns=parent_start_ns,
                uid=0,
                comm=comm,
                exe=exe,
                system_exe=system,
                argv=(exe,),
            )
        )
        return identity

    def fork(self, parent: Identity, *, pid: int = 0) -> Identity:
        """Fork; return the child."""
        identity = self._new_process(pid)
        self._parents[identity] = parent
        comm = self._comms[identity] = self._comms.get(parent, "")
        ppid, parent_start_ns = parent
        self.emit(
            ForkEvent(
                **self._stamp(identity),
                ppid=ppid,
                parent_start_ns=parent_start_ns,
                uid=0,
                comm=comm,
            )
        )
        return identity

    def exec(  # noqa: PLR0913 - what an execution can have
        self,
        identity: Identity,
        exe: str,
        *arguments: str,
        system: bool = True,
        filename: str = "",
        error: int = 0,
        stdio: tuple[str, ...] = (),
        cwd: str = "/",
    ) -> list[Alert]:
        """Exec a program with these arguments (without argv[0])."""
        filename = filename or exe
        if not error:
            self._comms[identity] = _comm(filename)
        ppid, parent_start_ns = self._parents.get(identity, (0, 0))
        return self.emit(
            ExecEvent(
                **self._stamp(identity),
                ppid=ppid,
                parent_start_ns=parent_start_ns,
                uid=0,
                login_uid=4294967295,
                cgroup_id=1,
                comm=self._comms.get(identity, ""),
                filename=filename,
                exe=exe,
                system_exe=system,
                argv=(filename, *arguments),
                argv_cut=False,
                cwd=cwd,
                user="root",
                error=error,
                stdio=stdio,
            )
        )

    def run(
        self, parent: Identity, exe: str, *arguments: str, system: bool = True, **how: Any
    ) -> tuple[Identity, list[Alert]]:
        """Fork and exec; return the child and the alerts of its exec."""
        child = self.fork(parent)
        return child, self.exec(child, exe, *arguments, system=system, **how)

    def open(
        self,
        identity: Identity,
        filename: str,
        *,
        flags: int = 0,
        error: int = 0,
        resolved: bool = True,
    ) -> list[Alert]:
        """Open a file, for reading unless told otherwise."""
        return self.emit(
            OpenEvent(
                **self._stamp(identity),
                uid=0,
                comm=self._comms.get(identity, ""),
                filename=filename,
                resolved=resolved,
                flags=flags,
                error=error,
                origin="",
            )
        )

    def connect(
        self,
        identity: Identity,
        dest_ip: str = "203.0.113.7",
        dest_port: int = 443,
        *,
        error: int = 0,
        claimed: str = "",
    ) -> list[Alert]:
        """Connect to an address; an empty one is a unix socket."""
        return self.emit(
            ConnectEvent(
                **self._stamp(identity),
                uid=0,
                user="root",
                comm=self._comms.get(identity, ""),
                af=10 if ":" in dest_ip else 2 if dest_ip else 1,
                dest_ip=dest_ip,
                dest_port=dest_port,
                path="" if dest_ip else "/run/bus",
                error=error,
                claimed=claimed,
            )
        )

    def listen(self, identity: Identity, ip: str = "0.0.0.0", port: int = 8080) -> list[Alert]:  # noqa: S104
        """Begin to listen at an address."""
        return self.emit(
            ListenEvent(
                **self._stamp(identity),
                uid=0,
                user="root",
                comm=self._comms.get(identity, ""),
                af=10 if ":" in ip else 2,
                ip=ip,
                port=port,
            )
        )

    def exit(self, identity: Identity) -> list[Alert]:
        """End a process."""
        return self.emit(ExitEvent(**self._stamp(identity), exit_code=0, signal=0))

    def _new_process(self, pid: int) -> Identity:
        if not pid:
            self._next_pid += 1
            pid = self._next_pid
        return (pid, self.now_ns // TICK_NS * TICK_NS)

    def _stamp(self, identity: Identity) -> dict[str, Any]:
        self.now_ns += _EVENT_NS
        return {"time_ns": self.now_ns, "pid": identity[0], "start_ns": identity[1]}


def rules(alerts: list[Alert]) -> list[str]:
    """Return the ids of the rules that matched, in order."""
    return [alert.rule_id for alert in alerts]


def _comm(path: str) -> str:
    return path.rpartition("/")[2][:15]
