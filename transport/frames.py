"""The little languages inside NATS messages: header blocks, status lines, ack subjects, pub acks.

All of it comes from the network: what is malformed reads as absent, or raises `ValueError` where
there is nothing sensible to return.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

MESSAGE_ID = "Nats-Msg-Id"
_VERSION_LINE = b"NATS/1.0"
_TEXT = re.compile(r"[^\x00-\x1f\x7f]*")
_PLAIN_ID = re.compile(r"[!-~]{1,512}")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?")


class Headers(NamedTuple):
    """A decoded header block."""

    status: int
    """100 to 599 in a message of the server's own; 0 in one that somebody published."""
    description: str
    fields: Mapping[str, str]


class AckSubject(NamedTuple):
    """What the reply subject of a delivery says."""

    stream: str
    consumer: str
    deliveries: int
    """1 the first time."""
    stream_seq: int
    stored_unix_ms: int


class Refusal(msgspec.Struct, frozen=True):
    """An error of JetStream's API."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """JetStream's answer to a publish."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: Refusal | None = None


decode_pub_ack = msgspec.json.Decoder(PubAck).decode


def decode_headers(raw: bytes | None) -> Headers:
    """Status, description and fields of a header block; the last of equal names counts."""
    if not raw:
        return Headers(0, "", {})
    first, _, rest = raw.partition(b"\r\n")
    line = first[len(_VERSION_LINE) :].strip().decode("utf-8", "replace")
    code, _, description = line.partition(" ")
    fields = {}
    for each in rest.split(b"\r\n"):
        name, separator, value = each.partition(b":")
        if separator:
            fields[name.strip().decode("utf-8", "replace")] = value.strip().decode(
                "utf-8", "replace"
            )
    status = int(code) if code.isascii() and code.isdigit() and len(code) == 3 else 0
    return Headers(status, description.strip(), fields)


def encode_headers(fields: Mapping[str, str]) -> bytes:
    """A header block.

    Raises:
        ValueError: a name or value would break out of its line.
    """
    lines = [_VERSION_LINE]
    for name, value in fields.items():
        if not _NAME.fullmatch(name) or not _TEXT.fullmatch(value):
            raise ValueError(f"header {name!r} = {value[:80]!r} holds what a header cannot")
        lines.append(f"{name}: {value}".encode())
    return b"\r\n".join((*lines, b"", b""))


def header_text(text: str, *, longest: int = 1024) -> str:
    """A stranger's text, fit for a header."""
    return "".join(each if each.isprintable() else "?" for each in text[:longest])


def message_id_text(message_id: str) -> str:
    """A message id as it travels: of an odd or long one its digest."""
    if _PLAIN_ID.fullmatch(message_id):
        return message_id
    return hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest()


def decode_ack_subject(reply: str) -> AckSubject:
    """What ``$JS.ACK.…`` says; with or without domain and account.

    Raises:
        ValueError: it is no such subject.
    """
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"] or not (len(tokens) == 9 or len(tokens) >= 11):
        raise ValueError(f"{reply[:200]!r} is no ack subject")
    first = 2 if len(tokens) == 9 else 4
    stream, consumer, deliveries, stream_seq, _, stored_ns = tokens[first : first + 6]
    return AckSubject(
        stream, consumer, int(deliveries), int(stream_seq), int(stored_ns) // 1_000_000
    )


def decode_version(text: str) -> tuple[int, int, int]:
    """Major, minor and patch of a server's version, ``2.10.4`` or ``nats-server: v2.10.4-beta``.

    Raises:
        ValueError: there is none in it.
    """
    found = _VERSION.search(text)
    if not found:
        raise ValueError(f"{text[:80]!r} is no version")
    return int(found[1]), int(found[2]), int(found[3] or 0)
