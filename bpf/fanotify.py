"""fanotify(7): the kernel's own word that a file was opened, whatever the way in.

A mark hangs on an inode, so it holds for every name the file has, for io_uring, for 32-bit calls
and for opens by handle, and costs nothing elsewhere. A group that root has made stays readable,
with the pids of all processes, after its reader has become another user (tried on 6.18).

Notices name files by handle, not by descriptor: nothing is opened to be told of them.

Raises (every function): `OSError` with the kernel's reason.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

OPEN, MOVED_TO, CREATE, OVERFLOW, ON_FOLDER = 0x20, 0x80, 0x100, 0x4000, 0x40000000
_ON_CHILD = 0x08000000

_CLOEXEC, _NONBLOCK, _REPORT_FID, _REPORT_DIR_FID, _REPORT_NAME = 1, 2, 0x200, 0x400, 0x800
_REPORT_TARGET_FID = 0x1000  # of what was moved or made; since 5.17
_MARK_ADD, _MARK_DONT_FOLLOW, _MARK_IGNORED, _MARK_SURVIVE_WRITES = 0x1, 0x4, 0x20, 0x40
_INFO_FILE, _INFO_FOLDER_AND_NAME = 1, 2
_AT_FDCWD = -100
_AT_EMPTY_PATH, _AT_HANDLE_FID = 0x1000, 0x200
_HANDLE_MAX_BYTES = 128

_EVENT = struct.Struct("<IBBHQii")  # length, version, -, bytes of this, mask, descriptor, pid
_INFO = struct.Struct("<BBH8sIi")  # kind, -, length, file system, bytes of the handle, its type
_VERSION = 3
_NOTICE_MAX_BYTES = 1024  # three handles and two names at most

_libc = ctypes.CDLL(None, use_errno=True)


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint),
        ("kind", ctypes.c_int),
        ("bytes", ctypes.c_ubyte * _HANDLE_MAX_BYTES),
    )


class Notice(NamedTuple):
    """One thing that happened to a marked file or folder."""

    mask: int
    """What: `OPEN` and so on; `OVERFLOW` alone says that notices were lost."""
    pid: int
    """The process; 0 where there is none."""
    folder: bytes
    """Key of the folder through which the file was reached; empty if that is not known."""
    name: bytes
    """The file's name in it."""
    file: bytes
    """Key of the file; empty if that is not known."""


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def key_of(descriptor: int) -> bytes:
    """What notices call an open file or folder (``O_PATH`` will do)."""
    handle = _FileHandle(size=_HANDLE_MAX_BYTES)
    mount = ctypes.c_int()
    for flags in (_AT_EMPTY_PATH | _AT_HANDLE_FID, _AT_EMPTY_PATH):  # the former since 6.6
        found = _libc.name_to_handle_at(
            descriptor, b"", ctypes.byref(handle), ctypes.byref(mount), flags
        )
        if found == 0:
            break
    _check(found)
    about = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(descriptor, about))
    filesystem = about.raw[56:64]  # f_fsid
    return _key(filesystem, handle.kind, bytes(handle.bytes[: handle.size]))


def _key(filesystem: bytes, kind: int, handle: bytes) -> bytes:
    return filesystem + struct.pack("<i", kind) + handle


class Group:
    """A queue of notices, of at most 16,384; for root to make and for anybody to read."""

    def __init__(self) -> None:
        flags = _CLOEXEC | _NONBLOCK | _REPORT_FID | _REPORT_DIR_FID | _REPORT_NAME
        made = _libc.fanotify_init(flags | _REPORT_TARGET_FID, os.O_RDONLY)
        self.descriptor = _check(made if made >= 0 else _libc.fanotify_init(flags, os.O_RDONLY))
        self.drained = True
        """The last `read` left nothing in the queue."""

    def watch_file(self, descriptor: int) -> None:
        """Be told of every open of this file."""
        self._mark(_MARK_ADD, OPEN, descriptor)

    def watch_folder(self, descriptor: int) -> None:
        """Be told of opens of files by a name in this folder, and of new files in it."""
        self._mark(_MARK_ADD, OPEN | MOVED_TO | CREATE | _ON_CHILD, descriptor)

    def _mark(self, how: int, mask: int, descriptor: int) -> None:
        # By way of /proc, for the call itself takes no descriptor opened with O_PATH.
        path = f"/proc/self/fd/{descriptor}".encode()
        _check(_libc.fanotify_mark(self.descriptor, how, ctypes.c_uint64(mask), _AT_FDCWD, path))

    def ignore(self, root: int, path: bytes) -> None:
        """Be told no more of opens of this file, though its folder is watched.

        It must be one that the caller may read.

        Args:
            root: folder that ``path`` is relative to.
            path: of the file.
        """
        how = _MARK_ADD | _MARK_DONT_FOLLOW | _MARK_IGNORED | _MARK_SURVIVE_WRITES
        _check(_libc.fanotify_mark(self.descriptor, how, ctypes.c_uint64(OPEN), root, path))

    def read(self, size: int) -> Iterator[Notice]:
        """Notices of at most ``size`` bytes; nothing where there are none."""
        try:
            raw = os.read(self.descriptor, size)
        except BlockingIOError:
            raw = b""
        self.drained = len(raw) + _NOTICE_MAX_BYTES < size
        return parse(raw)

    def close(self) -> None:
        """Let go of it, and with it of all marks."""
        os.close(self.descriptor)


def parse(raw: bytes) -> Iterator[Notice]:
    """The notices in what was read from a group."""
    position = 0
    while position + _EVENT.size <= len(raw):
        length, version, _, head, mask, _, pid = _EVENT.unpack_from(raw, position)
        if version != _VERSION or length < _EVENT.size:
            raise OSError(f"fanotify speaks version {version}; expected {_VERSION}")
        yield _notice(raw[position + head : position + length], mask, pid)
        position += length


def _notice(raw: bytes, mask: int, pid: int) -> Notice:
    folder = name = file = b""
    position = 0
    while position + _INFO.size <= len(raw):
        kind, _, length, filesystem, size, handle_kind = _INFO.unpack_from(raw, position)
        begin = position + _INFO.size
        key = _key(filesystem, handle_kind, raw[begin : begin + size])
        if kind == _INFO_FILE:
            file = key
        elif kind == _INFO_FOLDER_AND_NAME:
            folder = key
            name = raw[begin + size : position + length].split(b"\0", 1)[0]
        position += max(length, _INFO.size)
    return Notice(mask, pid, folder, name, file)
