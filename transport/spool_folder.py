"""The spool's folder: whose it is, which process has it, and where a damaged file goes."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from transport.spool_errors import SpoolError, SpoolInUse

FILE = "spool.db"
LOCK = "spool.lock"
_ASIDE = f"{FILE}.corrupt-"
_NAMES = (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal", LOCK)
_THROUGH = 0o711
"""Of the folders above: the account must get through, and not see what else is there."""
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SET_ASIDE_MAX = 2
"""Damaged files kept; the oldest goes first."""


def prepare_folder(top: Path, names: Sequence[str], *, uid: int, gid: int) -> Path:
    """Make a folder below ``top`` and give it to an account; for root, before it gives root up.

    Nothing below ``top`` is followed, and what is there already keeps its mode and owner, except
    for the last folder where it is empty or a spool's. That is the account's own only when all in
    it is: until then the account can exchange nothing there.

    Args:
        top: where all spools are; may be a link.
        names: of the folders below it, one in the other.
        uid: the account's.
        gid: same.

    Raises:
        OSError: it cannot be made or given away.
        SpoolError: a name is that of no folder below, or the last folder holds something else.
    """
    if not names or any("/" in name or "\0" in name or name in {"", ".", ".."} for name in names):
        raise SpoolError(f"{names!r} are no names of folders in {top}")
    with suppress(FileExistsError):
        top.mkdir(parents=True)
        top.chmod(_THROUGH)
    path, folder = top, os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            path /= name
            folder = _enter(folder, name)
        _check_contents(folder, path)
        # Ours first: to change the mode of another's folder takes one capability more.
        os.fchown(folder, os.geteuid(), os.getegid())
        os.fchmod(folder, 0o700)
        for name in _NAMES:
            _give_away(folder, name, uid, gid)
        os.fchown(folder, uid, gid)
    finally:
        os.close(folder)
    return path


def _enter(parent: int, name: str) -> int:
    """The descriptor of a folder, made if it is not there; its parent's is closed on success."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.chmod(name, _THROUGH, dir_fd=parent)
    folder = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    os.close(parent)
    return folder


def _check_contents(folder: int, path: Path) -> None:
    strange = [
        name for name in os.listdir(folder) if name not in _NAMES and not name.startswith(_ASIDE)
    ]
    if strange:
        raise SpoolError(
            f"{path} is no spool's folder: it holds {min(strange)!r}; empty it or name another"
        )


def _give_away(folder: int, name: str, uid: int, gid: int) -> None:
    """Give a file to an account, by its descriptor; nothing if it is not a spool's own file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=folder)
    except OSError:  # not there, a link
        return
    try:
        found = os.fstat(file)
        # A second name of the file may be in another folder.
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.fchown(file, uid, gid)
    finally:
        os.close(file)


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
