"""A seccomp filter of the agent's own: the calls that its work needs, and no others.

See seccomp(2) and linux/filter.h. The filter looks at numbers and words of a call, never at memory
that an argument points to: it knows which kind of socket is made, but neither to whom it connects
nor which file is opened. A call that is not on the list fails with EPERM, and the kernel's audit
log says so; a call that is not of the 64-bit interface ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

_SYS_SECCOMP = 317
_SET_MODE_FILTER = 1
_TSYNC, _LOG = 1, 2
_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
_X32_BIT = 0x40000000

_INSTRUCTION = struct.Struct("<HBBI")
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K
_IF_EQUAL, _IF_AT_LEAST = 0x15, 0x35  # BPF_JMP|JEQ|K, BPF_JMP|JGE|K
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


class Test(NamedTuple):
    """What must hold of one argument: ``argument & mask == value``, in its low 32 bits."""

    argument: int
    mask: int
    value: int


Rule: TypeAlias = Sequence[Sequence[Test]]
"""Alternatives, each of tests that must all hold."""
ALWAYS: Rule = ()
_EVERY_BIT = 0xFFFFFFFF


def equals(argument: int, *values: int) -> Rule:
    """The argument is one of these."""
    return [[Test(argument, _EVERY_BIT, value)] for value in values]


def without(argument: int, bits: int) -> Rule:
    """None of these bits is set."""
    return [[Test(argument, bits, 0)]]


class Refused(NamedTuple):
    """A call that fails with an error of its own."""

    number: int
    error: int


def program(rules: Mapping[int, Rule], refused: Iterable[Refused] = ()) -> bytes:
    """The filter as instructions.

    Args:
        rules: what is allowed, by the number of the call; `ALWAYS` whatever its arguments.
        refused: what fails with something else than EPERM.
    """
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, _ARCHITECTURE),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL),
    ]
    for number, rule in rules.items():
        body = list(_body(rule))
        # A jump reaches 255 instructions.
        code += [(_IF_EQUAL, 0, len(body), number), *body]
    for number, error in refused:
        code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]
    code.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(_INSTRUCTION.pack(*each) for each in code)


def _body(rule: Rule) -> Iterable[tuple[int, int, int, int]]:
    for tests in rule:
        left = 3 * len(tests) + 1
        for argument, mask, value in tests:
            left -= 3
            yield _LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument
            yield _AND, 0, 0, mask
            yield _IF_EQUAL, 0, left, value
        yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, (_ERRNO | errno.EPERM) if rule else _ALLOW


def install(code: bytes) -> None:
    """Put the filter on every thread of this process, for good; no_new_privs must be set.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(code, len(code))
    length = len(code) // _INSTRUCTION.size
    head = struct.pack("<H6xQ", length, ctypes.addressof(instructions))  # struct sock_fprog
    flags = ctypes.c_ulong(_TSYNC | _LOG)
    result = libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, ctypes.create_string_buffer(head))
    if result:
        number = ctypes.get_errno() if result < 0 else errno.EBUSY
        raise OSError(number, f"seccomp: {os.strerror(number)}")
