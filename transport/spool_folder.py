"""The spool's folder: whose it is, which process has it, and where a damaged file goes."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from transport.spool_errors import SpoolError, SpoolInUse

FILE = "spool.db"
LOCK = "spool.lock"
SET_ASIDE_MAX = 2
"""Damaged files kept; the oldest goes first."""


def prepare_folder(folder: Path, *, uid: int, gid: int) -> None:
    """Make the folder, and give it with the spool in it to an account; for root, before it drops.

    Nothing in it is followed: whoever had the folder before may have put links there.

    Raises:
        OSError: it cannot be made or given away.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Ours first: to change the mode of another's folder takes one capability more.
        os.fchown(top, os.geteuid(), os.getegid())
        os.fchmod(top, 0o700)
        os.fchown(top, uid, gid)
        for name in (FILE, f"{FILE}-wal", LOCK):
            with suppress(FileNotFoundError):
                _give_away(top, name, uid, gid)
    finally:
        os.close(top)


def _give_away(top: int, name: str, uid: int, gid: int) -> None:
    found = os.stat(name, dir_fd=top, follow_symlinks=False)
    # A second name of the file may be somebody else's.
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        os.chown(name, uid, gid, dir_fd=top, follow_symlinks=False)


def take_folder(folder: Path) -> int:
    """Make the folder if need be and lock it for this process; the lock's descriptor.

    Raises:
        SpoolInUse: another process has it.
        SpoolError: it cannot be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
        if owner != os.geteuid():
            raise SpoolError(
                f"the spool's folder {folder} belongs to user {owner}, not to {os.geteuid()}; "
                f"give it to {os.geteuid()} or name another folder"
            )
        folder.chmod(0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(folder / LOCK, flags, 0o600)
    except OSError as error:
        raise SpoolError(f"cannot use {folder} for the spool: {error}") from error
    try:
        os.fchmod(lock, 0o600)  # whoever may read it could hold it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        if not isinstance(error, BlockingIOError):
            raise SpoolError(f"cannot lock {folder / LOCK}: {error}") from error
        raise SpoolInUse(
            f"the spool in {folder} is in use by process {holder}; stop it or name another folder"
        ) from error
    # Without room for a pid it is locked all the same.
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def make_file(path: Path) -> bool:
    """Make the file if there is none, for its owner only; False if something else is there.

    Raises:
        OSError: it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return False
    file = os.open(path, flags, 0o600)
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)
    sync_folder(path.parent)
    return True


def set_aside(path: Path) -> Path:
    """Rename the file, or whatever is in its place; where it is now.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = f"{path.name}.corrupt-"
    kept = sorted(
        (int(number), each)
        for each in path.parent.glob(f"{aside}*")
        if (number := each.name.removeprefix(aside)).isdecimal()
    )
    target = path.with_name(f"{aside}{kept[-1][0] + 1 if kept else 1}")
    path.rename(target)
    # Had this rename not happened: SQLite throws the log of an empty file away.
    with suppress(FileNotFoundError):
        path.with_name(f"{path.name}-wal").rename(target.with_name(f"{target.name}-wal"))
    for _, old in kept[: max(0, len(kept) + 1 - SET_ASIDE_MAX)]:
        for each in (old, old.with_name(f"{old.name}-wal")):
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
    sync_folder(path.parent)
    return target


def sync_folder(folder: Path) -> None:
    """Make what was created or renamed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
