"""Dropping privileges: an unprivileged user, no capability but one to kill, no way back.

After this the process reads attacker-written bytes with nobody's rights. See capabilities(7) and
prctl(2); the numbers are those of linux/capability.h.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pwd
import struct
from collections.abc import Callable, Iterable
from enum import IntEnum

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_USERS = ("lavender", "nobody")
_HIGHEST = 63
_FOUND_MAX = 8


class Capability(IntEnum):
    """Capabilities an enabled actor may need."""

    KILL = 5


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unprivileged_user() -> pwd.struct_passwd:
    """The account to run as: ``lavender`` where the package made one, else ``nobody``."""
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise OSError(f"there is neither a user {' nor '.join(_USERS)}")


def drop(keep: Iterable[Capability]) -> str:
    """Become the unprivileged user with only these capabilities, for good.

    Must run before any thread is started: the system calls act on one thread.

    Returns:
        Why the bounding set could not be emptied; empty if it was. Nothing here can gain a
        capability even so: no_new_privs is set.

    Raises:
        OSError: the kernel refused a step; the process must not go on.
    """
    libc = _libc()
    account = unprivileged_user()
    kept = frozenset(keep)
    left = _empty_bounding_set(libc)
    _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    mask = sum(1 << capability for capability in kept)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("<6I", low, low, 0, high, high, 0)
    _check(libc.capset(header, data), "capset")
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    return left


def as_unprivileged(function: Callable[[], list[str]]) -> list[str]:
    """What a function finds when the unprivileged user calls it, in a process of its own."""
    account = unprivileged_user()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
            os.write(writer, json.dumps(function()[:_FOUND_MAX]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        raw = file.read()
    os.waitpid(child, 0)
    return list(json.loads(raw)) if raw else []


def _empty_bounding_set(libc: ctypes.CDLL) -> str:
    for number in range(_HIGHEST + 1):
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            refused = ctypes.get_errno()
            if refused == errno.EINVAL:  # beyond the last capability this kernel knows
                break
            return f"prctl(PR_CAPBSET_DROP): {os.strerror(refused)}; that needs CAP_SETPCAP"
    return ""
