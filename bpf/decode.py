"""Decoders: bytes of a ring into events.

A decoder takes a window of a ring and the constructor of its event and returns the events with the
number of bytes they took. It stops at the first record that is still busy or not wholly inside the
window, and skips discarded ones. Nothing in a record is trusted beyond its length fields, and those
are checked: what the text says was written by the watched process.

Raises (every decoder): `RecordError` for bytes that no probe of ours wrote.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

from bpf import records
from bpf.errors import RecordError
from bpf.records import (
    BUSY_BIT,
    DISCARD_BIT,
    HEADER_BYTES,
    OPEN_SLOT_BYTES,
    UNIX_ADDRESS_BYTES,
)

T = TypeVar("T")
Decoded = tuple[list[T], int]
Decoder = Callable[[memoryview, Callable[..., T]], Decoded[T]]

_LENGTH = struct.Struct("<I")
_FORK = struct.Struct("<I4x" + records.FORK.code)
_EXIT = struct.Struct("<I4x" + records.EXIT.code)
_OPEN = struct.Struct("<" + records.OPEN.code)
_CONNECT = struct.Struct("<" + records.CONNECT.code)
_LISTEN = struct.Struct("<I4x" + records.LISTEN.code)
_FLOOD = struct.Struct("<I4x" + records.FLOOD.code)
_EXEC = struct.Struct("<" + records.EXEC.code)
_OPEN_SLOT = struct.Struct(
    f"<I4x{records.OPEN.code}{OPEN_SLOT_BYTES - HEADER_BYTES - records.OPEN.size}s"
)
_SLOT_LENGTH = OPEN_SLOT_BYTES - HEADER_BYTES
_SLOT_PATH = OPEN_SLOT_BYTES - HEADER_BYTES - records.OPEN.size
_ARGUMENTS_MAX = 256
# Types of files as in i_mode, and devices as the kernel numbers them.
_CHARACTER, _REGULAR = 2, 8
_WITH_INODE = {1: "fifo", records.TYPE_PIPE: "pipe", records.TYPE_UNIX: "unix", 12: "socket"}
_MINOR_BITS = 20
_NULL_DEVICE = 1 << _MINOR_BITS | 3
_TERMINALS = frozenset((4, 5, *range(136, 144), 166, 188, 204, 229))
"""Major numbers: consoles and serial lines, the controlling terminal, pseudo terminals, modems and
serial lines by USB, serial lines of boards, the hypervisor's console."""
_CACHED_PATH_MAX = 256
_UNIX = 1
_IPV4 = 2
_IPV6 = 10
_CLAIM_MAX = 256


def text(raw: bytes) -> str:
    r"""Bytes up to the first NUL as text; bytes that are not UTF-8 become ``\xNN``."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


@lru_cache(maxsize=4096)
def _comm(raw: bytes) -> str:
    return text(raw)


def kernel_path(raw: bytes) -> str:
    """The path whose components, leaf first and each ended by NUL, are ``raw``.

    One that was cut, and ends with an empty component, begins with ``...``: it is not absolute.
    """
    # Long ones must not fill the cache: whoever runs a program chooses its path.
    return _short_kernel_path(raw) if len(raw) <= _CACHED_PATH_MAX else _kernel_path(raw)


def _kernel_path(raw: bytes) -> str:
    parts = raw.decode("utf-8", "backslashreplace").split("\0")[-2::-1]
    if parts and parts[0] == "/":  # the root of a tree that is mounted nowhere
        del parts[0]
    if parts and not parts[0]:
        parts[0] = "..."
        return "/".join(parts)
    return "/" + "/".join(parts)


_short_kernel_path = lru_cache(maxsize=2048)(_kernel_path)


@lru_cache(maxsize=4096)
def address_text(family: int, raw: bytes) -> str:
    """Canonical short text of an IPv4 (first four bytes) or IPv6 address."""
    if family == _IPV4:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    return socket.inet_ntop(socket.AF_INET6, raw)


def _records(window: memoryview) -> Iterator[tuple[int, int, int]]:
    """(begin, length, bytes with header and padding) of each committed record."""
    position, end = 0, len(window)
    while position + HEADER_BYTES <= end:
        header = _LENGTH.unpack_from(window, position)[0]
        length = header & ~(BUSY_BIT | DISCARD_BIT)
        size = (length + HEADER_BYTES + 7) & ~7
        if header & BUSY_BIT or position + size > end:
            return
        yield position + HEADER_BYTES, 0 if header & DISCARD_BIT else length, size
        position += size


def _slots(
    window: memoryview, slot: struct.Struct, layout: records.Layout
) -> tuple[list[tuple[Any, ...]], int]:
    """The committed records of a ring whose records are all of one size, and their bytes.

    Each with its length in front. They are read in one go up to the first that is special.
    """
    found = []
    consumed, size_without_header = 0, slot.size - HEADER_BYTES
    for fields in slot.iter_unpack(window[: len(window) - len(window) % slot.size]):
        if fields[0] != size_without_header:
            break
        found.append(fields)
        consumed += slot.size
    rest = window[consumed:]
    for begin, length, size in _records(rest):
        if length:
            _expect(layout, length, size_without_header)
            found.append(slot.unpack_from(rest, begin - HEADER_BYTES))
        consumed += size
    return found, consumed


def _expect(layout: records.Layout, length: int, at_least: int) -> None:
    if length < at_least:
        raise RecordError(f"{layout.name} record of {length} bytes; expected {at_least} or more")


def decode_forks(window: memoryview, make: Callable[..., T]) -> Decoded[T]:
    """``make(time_ns, pid, start_ns, ppid, parent_start_ns, uid, comm)`` for each record."""
    events: list[T] = []
    slots, consumed = _slots(window, _FORK, records.FORK)
    for _, time_ns, start, pid, uid, parent_start, ppid, _, comm in slots:
        events.append(make(time_ns, pid, start, ppid, parent_start, uid, _comm(comm)))
    return events, consumed


def decode_exits(window: memoryview, make: Callable[..., T]) -> Decoded[T]:
    """``make(time_ns, pid, start_ns, exit_code, signal)`` for each record.

    The status is that of wait(2): the signal in the low seven bits, the exit code above.
    """
    events: list[T] = []
    slots, consumed = _slots(window, _EXIT, records.EXIT)
    for _, time_ns, start, pid, _uid, status, _ in slots:
        events.append(make(time_ns, pid, start, status >> 8 & 0xFF, status & 0x7F))
    return events, consumed


def decode_opens(window: memoryview, make: Callable[..., T]) -> Decoded[T]:
    """``make(time_ns, pid, start_ns, uid, comm, filename, resolved, flags, error[, origin])`` each.

    The fast path takes records of one slot; longer ones span several.
    """
    events: list[T] = []
    append = events.append
    usable = len(window) - len(window) % OPEN_SLOT_BYTES
    consumed = 0
    while consumed < usable:
        for slot in _OPEN_SLOT.iter_unpack(window[consumed:usable]):
            length, time_ns, start, pid, uid, flags, error, size, marks, _, comm, path = slot
            if length != _SLOT_LENGTH or size > _SLOT_PATH:
                break
            consumed += OPEN_SLOT_BYTES
            resolved = marks & 2 != 0
            name = kernel_path(path[:size]) if resolved else text(path[:size])
            append(make(time_ns, pid, start, uid, _comm(comm), name, resolved, flags, error))
        else:
            break
        taken = _decode_long_open(window, consumed, make, events)
        if not taken:
            break
        consumed += taken
    return events, consumed


def _decode_long_open(
    window: memoryview, position: int, make: Callable[..., T], events: list[T]
) -> int:
    """Decode the record at ``position``, of any number of slots; its size, 0 if not yet whole."""
    record = next(_records(window[position:]), None)
    if record is None:
        return 0
    begin, length, size = record
    if size % OPEN_SLOT_BYTES:
        raise RecordError(f"open record of {length} bytes; expected whole slots")
    if length:
        fixed = window[position + begin : position + begin + length]
        (time_ns, start, pid, uid, flags, error, path_bytes, marks, origin_bytes, comm) = (
            _OPEN.unpack_from(fixed)
        )
        size_bytes = path_bytes + origin_bytes
        raw = bytes(fixed[_OPEN.size : _OPEN.size + size_bytes])
        if len(raw) != size_bytes:
            raise RecordError(f"open record of {length} bytes claims a path of {size_bytes}")
        resolved = bool(marks & records.MARK_RESOLVED)
        name = kernel_path(raw[:path_bytes]) if resolved else text(raw)
        fields = (time_ns, pid, start, uid, _comm(comm), name, resolved, flags, error)
        origin = (kernel_path(raw[path_bytes:]),) if origin_bytes else ()
        events.append(make(*fields, *origin))
    return size


def decode_connects(window: memoryview, make: Callable[..., T]) -> Decoded[T]:
    """``make(time_ns, pid, start_ns, uid, comm, af, dest_ip, dest_port, path, error, *more)`` each.

    ``more`` are the claimed address as text and the socket's inode number.

    Behind the fixed part stand the path of a unix socket and the one that the caller claimed, each
    as a ``struct sockaddr_un``; neither where both are empty, the first alone where no path is
    claimed.
    """
    events: list[T] = []
    consumed = 0
    for begin, length, size in _records(window):
        consumed += size
        if not length:
            continue
        _expect(records.CONNECT, length, _CONNECT.size)
        fields = _CONNECT.unpack_from(window, begin)
        time_ns, start, pid, uid, family, port, error, address, comm, number = fields[:10]
        claimed_family, claimed_port, path_bytes, claimed_bytes, claimed_address = fields[10:]
        if family == _UNIX:
            at = begin + _CONNECT.size
            where = ("", 0, _unix_path(window[at : min(begin + length, at + path_bytes)]))
        else:
            where = (address_text(family, address), port, "")
        claimed = ""
        if claimed_family:
            at = begin + _CONNECT.size + UNIX_ADDRESS_BYTES
            raw = window[at : min(begin + length, at + claimed_bytes)]
            claimed = _place(claimed_family, claimed_address, claimed_port, _unix_path(raw))
            if claimed == f"unix:{where[2]}":  # the kernel's after all, as the path now shows
                claimed = ""
        own = (time_ns, pid, start, uid, _comm(comm), family, *where, error)
        events.append(make(*own, claimed, number))
    return events, consumed


def decode_listens(window: memoryview, make: Callable[..., T]) -> Decoded[T]:
    """``make(time_ns, pid, start_ns, uid, comm, af, ip, port, socket)`` for each record."""
    events: list[T] = []
    slots, consumed = _slots(window, _LISTEN, records.LISTEN)
    for _, time_ns, start, pid, uid, family, port, _, address, comm, number in slots:
        where = (family, address_text(family, address), port, number)
        events.append(make(time_ns, pid, start, uid, _comm(comm), *where))
    return events, consumed


def _place(family: int, address: bytes, port: int, path: str) -> str:
    """One text for where a connection leads; empty for a family without such."""
    if family == _UNIX:
        return f"unix:{path}"[:_CLAIM_MAX]
    if family not in {_IPV4, _IPV6}:
        return ""
    name = address_text(family, address)
    return f"{name}:{port}" if family == _IPV4 else f"[{name}]:{port}"


def _unix_path(view: memoryview) -> str:
    """Path in a ``struct sockaddr_un``; an abstract name has an @ for each NUL.

    That is how /proc/net/unix writes a name that begins with NUL; no text of an event ever holds
    one. NULs at the end are left out: most callers pass the whole of ``sun_path``.
    """
    raw = bytes(view[2:])
    if raw[:1] == b"\0":
        name = b"@" + raw[1:].rstrip(b"\0").replace(b"\0", b"@")
        return name.decode("utf-8", "backslashreplace")
    return text(raw)


def decode_floods(window: memoryview, make: Callable[..., T]) -> Decoded[T]:
    """``make(time_ns, pid, start_ns, uid, comm, probe, failed, throttled, lost, span_ns)`` each."""
    events: list[T] = []
    slots, consumed = _slots(window, _FLOOD, records.FLOOD)
    for _, time_ns, start, pid, uid, throttled, lost, span_ns, probe, failed, comm in slots:
        name = records.PROBES[probe] if probe < len(records.PROBES) else str(probe)
        counts = (name, failed != 0, throttled, lost, span_ns)
        events.append(make(time_ns, pid, start, uid, _comm(comm), *counts))
    return events, consumed


def split_arguments(raw: bytes, total: int) -> tuple[tuple[str, ...], bool]:
    """Arguments of a new program and whether some were cut.

    Args:
        raw: what was captured of the argument area, each ended by NUL.
        total: size of the whole area.
    """
    if not raw:
        return (), total > 0
    # NUL is in no character of UTF-8, not even in a broken one: decoding may come first.
    parts = raw.decode("utf-8", "backslashreplace").split("\0")
    if not parts[-1]:
        parts.pop()
    cut = total > len(raw) or len(parts) > _ARGUMENTS_MAX
    return tuple(parts[:_ARGUMENTS_MAX]), cut


@lru_cache(maxsize=1024)
def descriptor(word: int) -> str:
    """What a descriptor is, from the word of an exec record; empty for a closed one.

    ``socket:[N]``, ``unix:[N]`` (a socket of this machine alone), ``pipe:[N]`` and ``fifo:[N]``
    with the inode's number, ``tty``, ``file``, ``null``, and ``other`` for all else, as folders and
    disks are.
    """
    kind, number = word >> 60, word & (1 << 60) - 1
    if not word:
        return ""
    if kind in _WITH_INODE:
        return f"{_WITH_INODE[kind]}:[{number}]"
    if kind == _CHARACTER:
        if number == _NULL_DEVICE:
            return "null"
        return "tty" if number >> _MINOR_BITS in _TERMINALS else "other"
    return "file" if kind == _REGULAR else "other"


def decode_execs(window: memoryview, make: Callable[..., T]) -> Decoded[T]:
    """``make(fixed, filename, exe, cwd, arguments, arguments_cut)`` for each record.

    ``fixed`` is the tuple of `bpf.records.EXEC`'s fields in their order, the comm still as bytes.
    """
    events: list[T] = []
    consumed = 0
    for begin, length, size in _records(window):
        consumed += size
        if not length:
            continue
        _expect(records.EXEC, length, _EXEC.size)
        fixed = _EXEC.unpack_from(window, begin)
        args_total, args, filename, exe, cwd = fixed[13:18]
        texts = bytes(window[begin + _EXEC.size : begin + length])
        if len(texts) < filename + exe + cwd + args:
            raise RecordError(f"exec record of {length} bytes claims more text than it has")
        cwd_at = filename + exe
        args_at = cwd_at + cwd
        arguments, cut = split_arguments(texts[args_at : args_at + args], args_total)
        events.append(
            make(
                fixed,
                text(texts[:filename]),
                kernel_path(texts[filename:cwd_at]) if exe else "",
                kernel_path(texts[cwd_at:args_at]) if cwd else "/",
                arguments,
                cut,
            )
        )
    return events, consumed
