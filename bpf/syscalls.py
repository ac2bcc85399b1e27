"""The bpf(2) and perf_event_open(2) calls that bcc does not offer: links, pins, what an object is.

Everything here needs root. Structures are those of linux/bpf.h; fields beyond the ones given are
zero, which the kernel takes for "not asked for".

Raises (every function): `OSError` with the kernel's reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from dataclasses import dataclass

_SYS_BPF = 321  # x86-64
_SYS_PERF_EVENT_OPEN = 298
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD, _OBJ_PIN, _OBJ_GET = 0, 1, 2, 5, 6, 7
_OBJ_GET_INFO, _RAW_TRACEPOINT_OPEN, _MAP_FREEZE, _LINK_CREATE = 15, 17, 22, 28
_ATTACH_PERF_EVENT = 41
_ATTRIBUTE_BYTES = 128
_INFO_BYTES = 256
_PERF_TYPE_TRACEPOINT = 2
_PERF_ATTRIBUTE_BYTES = 112
_PERF_FLAG_CLOEXEC = 8

_PROG_TYPE_TRACEPOINT, _PROG_TYPE_RAW_TRACEPOINT = 5, 17
_PROGRAM = struct.Struct("<IIQQIIQII16s")
_NAME_BYTES = 15
_LOG_BYTES = 1 << 24  # before 6.4 the kernel keeps the beginning, and the end tells why
_LOG_SHOWN_CHARACTERS = 2000

MAP_TYPE_ARRAY = 2
MAP_TYPE_RINGBUF = 27

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _bpf(command: int, attribute: bytes) -> int:
    buffer = ctypes.create_string_buffer(attribute, _ATTRIBUTE_BYTES)
    return _call(_SYS_BPF, ctypes.c_int(command), buffer, ctypes.c_uint(_ATTRIBUTE_BYTES))


def open_raw_tracepoint(name: str, program: int) -> int:
    """Attach a program to a raw tracepoint; the descriptor of the link."""
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QI", ctypes.addressof(text), program))


def link_tracepoint(tracepoint: int, program: int) -> int:
    """Attach a program to a tracepoint; the descriptor of the link (kernel 5.15 and later).

    One event, said to be of one CPU, stands for the tracepoint on all of them: the program hangs on
    the tracepoint, not on the event.

    Args:
        tracepoint: its number in tracefs.
        program: descriptor.
    """
    # type, size, config, sample_period
    head = struct.pack("<IIQQ", _PERF_TYPE_TRACEPOINT, _PERF_ATTRIBUTE_BYTES, tracepoint, 1)
    event = _call(
        _SYS_PERF_EVENT_OPEN,
        ctypes.create_string_buffer(head, _PERF_ATTRIBUTE_BYTES),
        *map(ctypes.c_int, (-1, 0, -1)),  # every process, CPU 0, no group
        ctypes.c_ulong(_PERF_FLAG_CLOEXEC),
    )
    try:
        return _bpf(_LINK_CREATE, struct.pack("<IIII", program, event, _ATTACH_PERF_EVENT, 0))
    finally:
        os.close(event)  # the link holds it


def pin(descriptor: int, path: str) -> None:
    """Give an object a name in bpffs, which keeps it alive."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("<QI", ctypes.addressof(text), descriptor))


def open_pin(path: str) -> int:
    """A descriptor of the object pinned there."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("<Q", ctypes.addressof(text)))


def sealed_map(name: str, value: bytes) -> int:
    """A map that holds ``value`` and can never be changed again."""
    # type, key, value, entries, flags, inner map, NUMA node, name
    shape = (MAP_TYPE_ARRAY, 4, len(value), 1, 0, 0, 0, name.encode())
    made = _bpf(_MAP_CREATE, struct.pack("<7I16s", *shape))
    try:
        set_first_value(made, value)
        _bpf(_MAP_FREEZE, struct.pack("<I", made))
    except OSError:
        os.close(made)
        raise
    return made


def create_map(info: MapInfo, name: str) -> int:
    """A map of this shape; its id is the kernel's to give."""
    # type, key, value, entries, flags, inner map, NUMA node, name
    shape = (info.kind, info.key_size, info.value_size, info.max_entries, info.flags, 0, 0)
    return _bpf(_MAP_CREATE, struct.pack("<7I16s", *shape, name.encode()[:_NAME_BYTES]))


def load_program(code: bytes, *, name: str, raw: bool, license_text: str) -> int:
    """Have the kernel verify a program; its descriptor.

    Args:
        code: instructions.
        name: for people; the kernel keeps 15 bytes of it.
        raw: for a raw tracepoint, not for a tracepoint.
        license_text: what it may call depends on it.

    Raises:
        OSError: the text ends with the verifier's last words.
    """
    instructions = _buffer(code)
    text = ctypes.create_string_buffer(license_text.encode())
    kind = _PROG_TYPE_RAW_TRACEPOINT if raw else _PROG_TYPE_TRACEPOINT
    head = (kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(text))
    # after the head: log level, size and place, kernel version, flags, name
    tail = (0, 0, name.encode()[:_NAME_BYTES])
    try:
        return _bpf(_PROG_LOAD, _PROGRAM.pack(*head, 0, 0, 0, *tail))
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        with contextlib.suppress(OSError):
            os.close(
                _bpf(_PROG_LOAD, _PROGRAM.pack(*head, 1, len(log), ctypes.addressof(log), *tail))
            )
        said = log.value.decode(errors="replace")[-_LOG_SHOWN_CHARACTERS:]
        raise OSError(error.errno, f"{error.strerror} ({name}): {said}") from error


def set_first_value(descriptor: int, value: bytes) -> None:
    """Write the value at index 0 of an array."""
    key, buffer = ctypes.c_uint32(0), _buffer(value)
    _bpf(_MAP_UPDATE, _element(descriptor, key, buffer))


def first_value(descriptor: int, size: int) -> bytes:
    """The value of ``size`` bytes at index 0 of an array."""
    key, value = ctypes.c_uint32(0), _buffer(bytes(size))
    _bpf(_MAP_LOOKUP, _element(descriptor, key, value))
    return value.raw


def _buffer(value: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(value, len(value))


def _element(descriptor: int, key: ctypes.c_uint32, value: ctypes.Array[ctypes.c_char]) -> bytes:
    return struct.pack("<I4xQQ", descriptor, ctypes.addressof(key), ctypes.addressof(value))


@dataclass(frozen=True)
class MapInfo:
    """What a map is (``struct bpf_map_info``)."""

    kind: int
    id: int
    """The kernel's number of this map, never given twice while the machine runs."""
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


def _info(descriptor: int) -> bytes:
    buffer = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(_OBJ_GET_INFO, struct.pack("<IIQ", descriptor, _INFO_BYTES, ctypes.addressof(buffer)))
    return buffer.raw


def map_info(descriptor: int) -> MapInfo:
    """What this map is."""
    return MapInfo(*struct.unpack_from("<6I", _info(descriptor)))


def object_id(descriptor: int) -> int:
    """The kernel's number of this map or link: the second word of either's description."""
    number: int = struct.unpack_from("<4xI", _info(descriptor))[0]
    return number
