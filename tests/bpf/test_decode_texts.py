"""What becomes of the bytes of paths, names and addresses."""

import pytest

from bpf import decode, records


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"", "/"),
        (b"passwd\0etc\0", "/etc/passwd"),
        (b"memfd:x (deleted)\0/\0", "/memfd:x (deleted)"),
        (b"x\0/\0", "/x"),
        (b"/\0", "/"),
        (b"\xffx\0a\nb\0", "/a\nb/\\xffx"),
        (b"unfinished", "/"),
        (b"sshd\0d0\0usr\0\0", ".../usr/d0/sshd"),
        (b"\0", "..."),
    ],
)
def test_a_kernel_path_is_turned_round(raw: bytes, path: str) -> None:
    assert decode.kernel_path(raw) == path


@pytest.mark.parametrize(
    ("raw", "shows"),
    [
        (b"", ""),
        (b"a\0b", "a"),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xc3", "caf\\xc3"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        (b"\xff\xfe\n", "\\xff\\xfe\n"),
    ],
)
def test_text_ends_at_nul_and_escapes_what_is_not_utf8(raw: bytes, shows: str) -> None:
    assert decode.text(raw) == shows


@pytest.mark.parametrize(
    ("family", "raw", "address"),
    [
        (2, bytes([127, 0, 0, 1]) + b"\xff" * 12, "127.0.0.1"),
        (10, bytes(15) + b"\1", "::1"),
        (10, bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
        (10, bytes(10) + b"\xff\xff\x0a\0\0\1", "::ffff:10.0.0.1"),
    ],
)
def test_addresses_are_written_in_their_short_form(family: int, raw: bytes, address: str) -> None:
    assert decode.address_text(family, raw) == address


@pytest.mark.parametrize(
    ("kind", "number", "shows"),
    [
        (0, 0, ""),
        (1, 5, "fifo:[5]"),
        (records.TYPE_PIPE, 5, "pipe:[5]"),
        (records.TYPE_UNIX, 5, "unix:[5]"),
        (12, (1 << 60) - 1, "socket:[1152921504606846975]"),
        (2, 1 << 20 | 3, "null"),
        (2, 1 << 20 | 5, "other"),
        (2, 136 << 20 | 7, "tty"),
        (2, 5 << 20, "tty"),
        (8, 9, "file"),
        (4, 9, "other"),
        (records.TYPE_NONE, 9, "other"),
    ],
)
def test_a_descriptor_is_named_by_its_type(kind: int, number: int, shows: str) -> None:
    assert decode.descriptor(kind << 60 | number) == shows
