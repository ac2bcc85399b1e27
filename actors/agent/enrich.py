"""From raw exec and connect records to events: user names, and which executables are the system's.

Nothing here asks the process itself: by then it may be gone or lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.agent.hostfiles import HostFiles, is_system_file
from actors.detection.events import ConnectEvent, ExecEvent, FloodEvent, ListenEvent
from bpf.decode import descriptor, text
from bpf.records import MARK_HOST_NAMESPACE

PASSWD = Path("/etc/passwd")
_EXECS_MAX = 4096


class Users:
    """Names of user ids, from ``/etc/passwd`` alone: a name service could keep the agent waiting.

    Args:
        path: a file in the format of passwd(5).
    """

    def __init__(self, path: Path = PASSWD) -> None:
        self._path = path
        self._changed_ns = -1
        self._names: dict[int, str] = {}

    def name(self, uid: int) -> str:
        """The user's name, or the digits of ``uid``; a change of the file is noticed on a miss."""
        found = self._names.get(uid)
        if found is None:
            self._reload()
            found = self._names.get(uid, str(uid))
        return found

    def _reload(self) -> None:
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns == self._changed_ns:
                return
            lines = self._path.read_text(errors="backslashreplace").splitlines()
        except OSError:
            return
        self._changed_ns = changed_ns
        self._names = {}
        for line in lines:
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdecimal():
                self._names.setdefault(int(fields[2]), fields[0])


class Enricher:
    """Builds exec and connect events from what the decoders deliver.

    Args:
        users: names of user ids.
        host: the host's own files.
    """

    def __init__(self, users: Users, host: HostFiles) -> None:
        self._users = users
        self.host = host
        self._exec_ids: dict[tuple[int, int], int] = {}

    def exec_id(self, event: ExecEvent) -> int | None:
        """The kernel's number of that program within its process; only the latest are known."""
        return self._exec_ids.get((event.pid, event.time_ns))

    def exec_event(  # noqa: PLR0913, PLR0917 - the decoder's own six values, once per exec
        self,
        fixed: tuple[Any, ...],
        filename: str,
        exe: str,
        cwd: str,
        argv: tuple[str, ...],
        argv_cut: bool,  # noqa: FBT001 - positional, as all values the decoder hands over
    ) -> ExecEvent:
        """An exec event; ``fixed`` are the fields of `bpf.records.EXEC` in their order."""
        (time_ns, start, pid, uid, parent_start, cgroup, inode, device, exe_uid, mode) = fixed[:10]
        ppid, login_uid, error = fixed[10:13]
        marks, comm = fixed[18:20]
        self._exec_ids[pid, time_ns] = fixed[23]
        if len(self._exec_ids) > _EXECS_MAX:
            del self._exec_ids[next(iter(self._exec_ids))]
        system = (
            bool(marks & MARK_HOST_NAMESPACE)
            and is_system_file(exe, uid=exe_uid, mode=mode)
            and self.host.has(exe, inode=inode, device=device)
        )
        return ExecEvent(
            time_ns,
            pid,
            start,
            ppid,
            parent_start,
            uid,
            login_uid,
            cgroup,
            text(comm),
            filename,
            exe,
            system,
            argv,
            argv_cut,
            "" if error else cwd,
            self._users.name(uid),
            error,
            stdio=() if error else tuple(map(descriptor, fixed[20:23])),
        )

    def connect_event(  # noqa: PLR0913, PLR0917 - the decoder's own values, once per connect
        self,
        time_ns: int,
        pid: int,
        start_ns: int,
        uid: int,
        comm: str,
        af: int,
        dest_ip: str,
        dest_port: int,
        path: str,
        error: int,
        claimed: str,
        socket: int,
    ) -> ConnectEvent:
        """A connect event with its user's name."""
        name = self._users.name(uid)
        where = (af, dest_ip, dest_port, path)
        return ConnectEvent(
            time_ns, pid, start_ns, uid, name, comm, *where, error, "", claimed, socket
        )

    def listen_event(  # noqa: PLR0913, PLR0917 - the decoder's own values, once per socket
        self,
        time_ns: int,
        pid: int,
        start_ns: int,
        uid: int,
        comm: str,
        af: int,
        ip: str,
        port: int,
        socket: int,
    ) -> ListenEvent:
        """A listen event with its user's name."""
        name = self._users.name(uid)
        return ListenEvent(time_ns, pid, start_ns, uid, name, comm, af, ip, port, socket)

    def flood_event(  # noqa: PLR0913, PLR0917 - the decoder's own values, once a second
        self,
        time_ns: int,
        pid: int,
        start_ns: int,
        uid: int,
        comm: str,
        probe: str,
        failed: bool,  # noqa: FBT001 - positional, as all values the decoder hands over
        throttled: int,
        lost: int,
        span_ns: int,
    ) -> FloodEvent:
        """A flood event with its user's name."""
        counts = (probe, failed, throttled, lost, span_ns)
        return FloodEvent(time_ns, pid, start_ns, uid, self._users.name(uid), comm, *counts)
