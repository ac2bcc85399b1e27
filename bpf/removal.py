"""Removing whatever is in a folder, however deep, by descriptors alone.

Another user may have put it there and may move it about meanwhile: a folder is made ours before it
is gone through, upon which no other user can change what it holds, and no link is followed.
"""

from __future__ import annotations

import errno
import os
import secrets

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDERS_MAX = 100_000


def make_ours(folder: int) -> None:
    """Let no other user into a folder.

    Raises:
        OSError: it is not ours to change.
    """
    os.fchown(folder, os.geteuid(), os.getegid())
    os.fchmod(folder, 0o700)


def is_at(name: str, parent: int, folder: int) -> bool:
    """Whether a name stands for this folder."""
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return os.path.samestat(found, os.fstat(folder))


def empty(folder: int) -> list[str]:
    """Remove what is in a folder; its names.

    Raises:
        OSError: something cannot be removed, or is too much.
    """
    names = sorted(os.listdir(folder))
    _remove_these(names, folder)
    return names


def remove_all(name: str, folder: int) -> None:
    """Remove what has this name in a folder, and all beneath it.

    Raises:
        OSError: something cannot be removed, or is too much.
    """
    _remove_these([name], folder)


def _remove_these(names: list[str], folder: int) -> None:
    waiting = list(names)
    for _ in range(_FOLDERS_MAX):
        if not waiting:
            return
        waiting += _remove(waiting.pop(), folder)
    raise OSError(errno.EOVERFLOW, f"there are more than {_FOLDERS_MAX} folders beneath")


def _remove(name: str, folder: int) -> list[str]:
    """Remove a file, link or folder; folders in it move up, and are returned by their new names."""
    if _unlink(name, folder):
        return []
    moved = []
    inside = os.open(name, FOLDER_FLAGS, dir_fd=folder)
    try:
        make_ours(inside)
        for each in os.listdir(inside):  # noqa: PTH208 - by descriptor
            if not _unlink(each, inside):
                moved.append(f"removing-{secrets.token_hex(8)}")
                os.rename(each, moved[-1], src_dir_fd=inside, dst_dir_fd=folder)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=folder)
    return moved


def _unlink(name: str, folder: int) -> bool:
    """Remove a file, a link or an empty folder; False if it is a folder that is not empty."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
    return True
