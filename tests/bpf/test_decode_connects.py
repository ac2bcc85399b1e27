"""What a connect record says: paths of unix sockets, and addresses that the caller claimed."""

from typing import Any

import pytest

from bpf import decode
from bpf.records import CONNECT
from tests.bpf.ring_bytes import record, sockaddr_un


def decoded(raw: bytes) -> list[tuple[Any, ...]]:
    events, consumed = decode.decode_connects(memoryview(raw), lambda *values: values)
    assert consumed == len(raw)
    return events


@pytest.mark.parametrize(
    ("path", "path_bytes", "expected"),
    [
        (b"/run/x.sock\0rest", 110, "/run/x.sock"),
        (b"/run/x.sock", 6, "/run"),
        (b"", 2, ""),
        (b"\0hidden", 9, "@hidden"),
        (b"\0hidden", 110, "@hidden"),
        (b"\0a\0b\xff\0", 8, "@a@b\\xff"),
        (b"\0", 110, "@"),
        (b"p" * 110, 0xFFFF, "p" * 110),
    ],
)
def test_unix_sockets_are_named_as_proc_names_them(
    path: bytes, path_bytes: int, expected: str
) -> None:
    raw = record(CONNECT, sockaddr_un(path), family=1, port=9, path_bytes=path_bytes)
    ((*_, address, port, name, _error, _claimed, _socket),) = decoded(raw)
    assert (address, port, name) == ("", 0, expected)


def claim(text: bytes = b"", **values: Any) -> str:
    raw = record(CONNECT, text, family=2, port=4444, address=bytes([203, 0, 113, 7]), **values)
    ((*_, claimed, _socket),) = decoded(raw)
    return str(claimed)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"claimed_family": 2, "claimed_port": 443, "claimed_address": b"\1\2\3\4"}, "1.2.3.4:443"),
        (
            {"claimed_family": 10, "claimed_port": 22, "claimed_address": bytes(15) + b"\1"},
            "[::1]:22",
        ),
        ({"claimed_family": 16}, ""),
        ({}, ""),
    ],
)
def test_a_claimed_address_is_one_text(values: dict[str, Any], text: str) -> None:
    assert claim(**values) == text


def test_a_claimed_path_stands_behind_the_kernels() -> None:
    texts = sockaddr_un(b"") + sockaddr_un(b"/run/bus")
    assert claim(texts, claimed_family=1, claimed_bytes=110) == "unix:/run/bus"
    longest = claim(bytes(112) + b"\1\0" + b"\xff" * 110, claimed_family=1, claimed_bytes=112)
    assert len(longest) == 256


def test_a_claimed_path_that_is_the_kernels_is_no_claim() -> None:
    texts = sockaddr_un(b"/run/bus") * 2
    raw = record(CONNECT, texts, family=1, path_bytes=110, claimed_family=1, claimed_bytes=110)
    ((*_, claimed, _socket),) = decoded(raw)
    assert claimed == ""


def test_lengths_beyond_a_connect_record_read_nothing_of_the_next() -> None:
    cut = record(CONNECT, sockaddr_un(b"/run/a"), family=1, path_bytes=0xFFFF)
    cut += record(CONNECT, family=1, path_bytes=0xFFFF, claimed_family=1, claimed_bytes=0xFFFF)
    assert [event[8] for event in decoded(cut)] == ["/run/a", ""]
