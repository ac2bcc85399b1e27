"""The lock that one agent at a time has on this machine.

flock(2) needs a descriptor for reading only: whoever may open the file may hold the lock. So the
file is root's alone, in a folder of root's alone, at every start. Another file takes the place of
one that others could read, for they may have it open still, and hold it; unless an agent holds it,
which has it open for writing.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

LOCK = Path("/run/lavender-agent/lock")
PROC = Path("/proc")
_TRIES = 8
_NAMED_MAX = 4
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LockHeldError(Exception):
    """Another agent has it; the text names the process."""


class Holder(NamedTuple):
    """A process that has the lock."""

    pid: int
    uid: int
    program: str
    writes: bool
    """Whether it has the file open for writing, which only root could do."""

    def __str__(self) -> str:
        return f"process {self.pid}, user {self.uid}, {self.program}"


def take(path: Path = LOCK) -> int:
    """Take the lock for as long as the descriptor is open; for root.

    Raises:
        LockHeldError: another agent has it.
        OSError: folder or file cannot be had.
    """
    with suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
    with ExitStack() as opened:
        folder = os.open(path.parent, _FOLDER_FLAGS)
        opened.callback(os.close, folder)
        os.fchown(folder, os.geteuid(), os.getegid())
        os.fchmod(folder, 0o700)
        for _ in range(_TRIES):
            lock = _try(path.name, folder)
            if lock is not None:
                return lock
    raise LockHeldError(f"{path} is made anew again and again: several agents start at once")


def _try(name: str, folder: int) -> int | None:
    """The locked descriptor; None if the name stands for another file by now."""
    with ExitStack() as opened:
        lock = os.open(name, _FILE_FLAGS, 0o600, dir_fd=folder)
        opened.callback(os.close, lock)
        found = os.fstat(lock)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(None, "is no file")
        open_to_others = found.st_uid != os.geteuid() or bool(found.st_mode & 0o077)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holders = list(_holders(found))
            agents = [each for each in holders if each.writes]
            if agents or not open_to_others:
                named = [*agents, *holders, "a process that cannot be found"][0]
                raise LockHeldError(str(named)) from None
            structlog.get_logger().warning(
                "the lock was held by a process that is no agent; another file takes its place",
                holders=[str(each) for each in holders[:_NAMED_MAX]],
            )
        if open_to_others:
            os.unlink(name, dir_fd=folder)
            return None
        if not _is_at(name, folder, lock):
            return None
        opened.pop_all()
    return lock


def _is_at(name: str, folder: int, file: int) -> bool:
    with suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return os.path.samestat(found, os.fstat(file))
    return False


def _holders(file: os.stat_result) -> Iterator[Holder]:
    """The processes that hold a file's lock (proc(5): fdinfo); nothing of theirs is followed."""
    place = f" {os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino} "
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended
                infos = map(_read, (entry / "fdinfo").iterdir())
                held = [info for info in infos if _is_locked(info, place)]
                if held:
                    writes = any(_flags(info) & os.O_ACCMODE != os.O_RDONLY for info in held)
                    uid = entry.stat().st_uid
                    yield Holder(int(entry.name), uid, _program(entry), writes)


def _read(fdinfo: Path) -> str:
    try:
        return fdinfo.read_text()
    except OSError:  # closed meanwhile
        return ""


def _is_locked(fdinfo: str, place: str) -> bool:
    return any(line.startswith("lock:") and place in line for line in fdinfo.splitlines())


def _flags(fdinfo: str) -> int:
    found = [line.split()[1] for line in fdinfo.splitlines() if line.startswith("flags:")]
    return int(found[0], 8) if found else 0


def _program(entry: Path) -> str:
    try:
        return repr(os.readlink(entry / "exe"))  # noqa: PTH115 - not followed, only named
    except OSError:
        return "an unknown program"
