"""Bytes as the kernel leaves them in a ring, packed from the layouts."""

import struct
from typing import Any

from bpf.records import (
    BUSY_BIT,
    DISCARD_BIT,
    HEADER_BYTES,
    OPEN,
    OPEN_SLOT_BYTES,
    UNIX_ADDRESS_BYTES,
    Layout,
)


def framed(payload: bytes, *, busy: bool = False, discarded: bool = False) -> bytes:
    """A record with its header, padded to 8 bytes with what an earlier record left there."""
    header = len(payload) | (BUSY_BIT if busy else 0) | (DISCARD_BIT if discarded else 0)
    padding = -(HEADER_BYTES + len(payload)) % 8
    return struct.pack("<II", header, 7) + payload + b"\xee" * padding


def fixed(layout: Layout, **values: Any) -> bytes:
    """The fixed part; fields that are not given are zero."""
    empty = {
        name: 0 if kind[0] in "us" and "x" not in kind else b"" for name, kind in layout.fields
    }
    assert values.keys() <= empty.keys()
    return struct.pack("<" + layout.code, *(empty | values).values())


def record(layout: Layout, text: bytes = b"", **values: Any) -> bytes:
    return framed(fixed(layout, **values) + text)


def open_payload(path: bytes, **values: Any) -> bytes:
    """An open record as the probe sizes it: whole slots, with leftovers behind the path."""
    payload = fixed(OPEN, path_bytes=len(path), **values) + path
    return payload + b"\xaa" * (-(HEADER_BYTES + len(payload)) % OPEN_SLOT_BYTES)


def sockaddr_un(path: bytes) -> bytes:
    """As it stands behind a connect record."""
    return (b"\1\0" + path).ljust(UNIX_ADDRESS_BYTES, b"\0")
