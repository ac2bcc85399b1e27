"""Dropping privileges: an unprivileged user, a handful of capabilities, no way back.

After this the process reads attacker-written bytes with nobody's rights. See capabilities(7) and
prctl(2); the numbers are those of linux/capability.h.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
from collections.abc import Iterable
from enum import IntEnum

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_USERS = ("lavender", "nobody")
_HIGHEST = 63


class Capability(IntEnum):
    """Capabilities an enabled actor may need."""

    DAC_READ_SEARCH = 2
    KILL = 5
    SYS_PTRACE = 19


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


def drop(keep: Iterable[Capability]) -> None:
    """Become the unprivileged user with only these capabilities, for good.

    Must run before any thread is started: the system calls act on one thread.

    Raises:
        OSError: the kernel refused a step; the process must not go on.
    """
    libc = _libc()
    account = unprivileged_user()
    kept = frozenset(keep)
    for number in range(_HIGHEST + 1):
        # Fails with EINVAL beyond the last capability this kernel knows.
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break
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
