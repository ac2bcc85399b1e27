"""Landlock: which files a process may open and to which ports it may connect (landlock(7)).

Holds for the calling thread and those it starts, so it comes before any other. What was opened
before stays usable. It also keeps the process from looking into others that it did not start
(ptrace(2), ``/proc/<pid>/mem``) whoever's they are. It knows ports, not addresses, and of network
protocols TCP alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH, _RULE_PORT = 1, 2
_RULESET = struct.Struct("<QQQ")  # files, ports, what else
_PATH = struct.Struct("<Qi")
_PORT = struct.Struct("<QQ")

_WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE, _REFER = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 13
_REMOVE_FOLDER, _REMOVE_FILE, _MAKE_FILE = 1 << 4, 1 << 5, 1 << 8
_OF_A_FILE = _WRITE_FILE | _READ_FILE | _TRUNCATE
_CONNECT = 1 << 1
_SIGNALS, _ABSTRACT_SOCKETS = 1 << 1, 1 << 0

READ = _READ_FILE | _READ_FOLDER
WRITE = READ | _WRITE_FILE | _TRUNCATE | _MAKE_FILE | _REMOVE_FILE | _REMOVE_FOLDER
REMOVE = READ | _REMOVE_FILE | _REMOVE_FOLDER


def version() -> int:
    """Of the kernel's interface; 0 where there is none."""
    return max(0, _syscall(_SYS_CREATE_RULESET, None, 0, _GET_VERSION))


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    return result


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return result


class Ruleset:
    """What will be allowed; everything else is not.

    Args:
        found: version of the kernel's interface, at least 1.
        signals: whether other processes may be sent signals.
    """

    def __init__(self, found: int, *, signals: bool) -> None:
        self._version = found
        files = (1 << 13) - 1
        files |= _REFER if found >= 2 else 0
        files |= _TRUNCATE if found >= 3 else 0
        self._files = files
        ports = 0b11 if found >= 4 else 0  # to listen on, and to connect to
        rest = _ABSTRACT_SOCKETS | (0 if signals else _SIGNALS) if found >= 6 else 0
        size = 24 if found >= 6 else 16 if found >= 4 else 8
        attributes = ctypes.create_string_buffer(_RULESET.pack(files, ports, rest), _RULESET.size)
        self._descriptor = _check(
            _syscall(_SYS_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
        )

    def allow(self, paths: Iterable[Path | int], access: int) -> None:
        """Allow access to files and to folders with all beneath them, as far as they are there.

        Args:
            paths: paths, or descriptors of folders.
            access: `READ`, `WRITE` or `REMOVE`.
        """
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                self._allow(path, access & self._files)

    def _allow(self, path: Path | int, access: int) -> None:
        descriptor = path if isinstance(path, int) else os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                access &= _OF_A_FILE
            self._add(_RULE_PATH, _PATH.pack(access, descriptor))
        finally:
            if not isinstance(path, int):
                os.close(descriptor)

    def allow_ports(self, ports: Iterable[int]) -> None:
        """Allow TCP connections to these ports, where the kernel can tell ports apart."""
        for port in ports if self._version >= 4 else ():
            self._add(_RULE_PORT, _PORT.pack(_CONNECT, port))

    def _add(self, kind: int, rule: bytes) -> None:
        buffer = ctypes.create_string_buffer(rule, len(rule))
        _check(_syscall(_SYS_ADD_RULE, self._descriptor, kind, buffer, 0))

    def enforce(self) -> None:
        """Hold this thread to it, for good; no_new_privs must be set.

        Raises:
            OSError: the kernel refuses.
        """
        _check(_syscall(_SYS_RESTRICT_SELF, self._descriptor, 0))
        os.close(self._descriptor)
