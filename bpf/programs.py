"""The programs of the probes, as instructions that are given to the kernel.

The kernel lets a program read any address like a variable once ``bpf_rdonly_cast`` has said what is
there. The compiler in bcc cannot call a function of the kernel, so the probes call a helper of a
number that no kernel has, `CAST_CALL`, and here each such call becomes one of the function: source
register 2, and the function's type id as the number (linux/bpf.h, ``BPF_PSEUDO_KFUNC_CALL``).
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bpf import source, syscalls
from bpf.btf import Btf
from bpf.records import RING_NUMBER, RINGS

CAST_CALL = 0x7FFF_0001
"""What stands for the function in the probes' source."""
INSTRUCTION = struct.Struct("<BBhi")
"""Operation; registers, the target's in the lower half; offset; number."""
LOAD_IMMEDIATE = 0x18
"""BPF_LD | BPF_DW | BPF_IMM; takes two instructions."""
MAP_REFERENCE = 1
"""BPF_PSEUDO_MAP_FD, in the upper half of the registers: the number is a map's descriptor."""

_CALL = 0x85
_EXIT = 0x95
_KERNEL_FUNCTION = 2
_LICENSE = "Dual BSD/GPL"
_LOAD_64, _MOVE_IMMEDIATE = 0x79, 0xB7


@dataclass(frozen=True)
class Cast:
    """What a call needs.

    Attributes:
        function: type id of ``bpf_rdonly_cast``.
        struct: type id of a struct that begins with two numbers of 64 bits and no pointer.
    """

    function: int
    struct: int


def find_cast(btf: Btf) -> Cast | None:
    """The function, if this kernel has it and lets programs of tracepoints call it (since 6.12)."""
    functions, structs = btf.functions(["bpf_rdonly_cast"]), btf.structs(["timespec64"])
    if not functions or not structs:
        return None
    found = Cast(functions["bpf_rdonly_cast"], structs["timespec64"])
    trial = b"".join(
        INSTRUCTION.pack(*words)
        for words in (
            (_MOVE_IMMEDIATE, 1, 0, 0),
            (_MOVE_IMMEDIATE, 2, 0, found.struct),
            (_CALL, 0, 0, CAST_CALL),
            (_LOAD_64, 0, 0, 0),
            (_EXIT, 0, 0, 0),
        )
    )
    try:
        for raw in (False, True):
            os.close(_load(with_cast(trial, found), name="cast", raw=raw))
    except OSError:
        return None
    return found


def instructions(code: bytes | bytearray) -> Iterator[tuple[int, int, int, int]]:
    """Position, operation, registers and number of each; of those that take two, the first."""
    skip = False
    for position in range(0, len(code), INSTRUCTION.size):
        operation, registers, _, number = INSTRUCTION.unpack_from(code, position)
        if not skip:
            yield position, operation, registers, number
        skip = not skip and operation == LOAD_IMMEDIATE


def with_cast(code: bytes, cast: Cast | None) -> bytes:
    """The instructions, calling the kernel's function where they called what stands for it."""
    if cast is None:
        return code
    changed = bytearray(code)
    for position, operation, registers, number in instructions(code):
        if operation == _CALL and registers == 0 and number == CAST_CALL:
            call = (_CALL, _KERNEL_FUNCTION << 4, 0, cast.function)
            INSTRUCTION.pack_into(changed, position, *call)
    return bytes(changed)


def with_rings(code: bytes, maps: Mapping[str, int]) -> bytes:
    """The instructions with the descriptors of rings where numbers stand for them.

    Args:
        code: instructions.
        maps: descriptors by name.
    """
    numbers = {RING_NUMBER + index: maps[ring.map_name] for index, ring in enumerate(RINGS)}
    changed = bytearray(code)
    for position, operation, registers, number in instructions(code):
        if operation == LOAD_IMMEDIATE and registers >> 4 == MAP_REFERENCE and number in numbers:
            struct.pack_into("<i", changed, position + 4, numbers[number])
    return bytes(changed)


def load_all(codes: Mapping[str, bytes]) -> dict[str, int]:
    """Have every program verified, the one that takes longest beside the others.

    Args:
        codes: instructions by name, with descriptors where they refer to maps.

    Returns:
        Descriptors by name.

    Raises:
        OSError: the kernel refuses one; all have been tried, none is left.
    """
    loaded: dict[str, int] = {}
    failures: list[OSError] = []

    def attempt(name: str) -> None:
        try:
            loaded[name] = _load(codes[name], name=name, raw=source.is_raw(name))
        except OSError as error:
            failures.append(error)  # raised below: this may be another thread

    slow = threading.Thread(target=attempt, args=(source.SLOW_TO_VERIFY,))
    slow.start()
    for name in codes.keys() - {source.SLOW_TO_VERIFY}:
        attempt(name)
    slow.join()
    if failures:
        for descriptor in loaded.values():
            os.close(descriptor)
        raise failures[0]
    return loaded


def _load(code: bytes, *, name: str, raw: bool) -> int:
    return syscalls.load_program(code, name=name, raw=raw, license_text=_LICENSE)
