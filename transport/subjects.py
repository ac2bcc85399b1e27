"""Subjects: how tenant and agent stand in the names of what travels.

A subject is ``<prefix>.<tenant>.<agent_id>``; the prefixes are those of the documentation.

NATS takes more in a subject than Lavender does: everything but space, tab, CR and LF, even bytes
that are no UTF-8. Whoever publishes into a stream may choose where the broker's ack goes, so an odd
subject can lie in any stream. What Lavender takes is said here, once, and is narrower: `TOKEN`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

RAW = "telemetry.raw"
ACCEPTED = "telemetry.accepted"
DETECTION_INPUT = "detection"
"""What is accepted once more, with the partition before the tenant."""
INVALID = "telemetry.invalid"
ALERTS = "alerts"
HEARTBEAT = "heartbeat"
COMMAND = "cmd"
DEAD_LETTER = "deadletter"

TOKEN_MAX = 64
_UNSEEN = r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
"""Controls, marks of writing direction and what has no width: two ids that look the same."""
TOKEN = rf"[^.*>/\\\s{_UNSEEN}]+"
r"""A tenant or an agent, of at most `TOKEN_MAX` characters. ``\s`` is Unicode's white space; no
slash, for ids become names of folders; no backslash, by which bytes that are no UTF-8 are shown."""
_token = re.compile(TOKEN)
_SUBJECT = re.compile(r"[^\s\x00-\x20\x7f]+")
_SUBJECT_MAX = 1024
"""The broker takes 4096 bytes for subject, reply subject and sizes together."""


class Address(NamedTuple):
    """Whose message it is."""

    tenant_id: str
    agent_id: str


ODD = Address("odd", "odd")
"""Where records of messages go whose own subject names no tenant and agent."""


def subject(prefix: str, address: Address) -> str:
    """The subject of one agent under a prefix."""
    return f"{prefix}.{address.tenant_id}.{address.agent_id}"


def is_token(text: str) -> bool:
    """Whether it may be a tenant or an agent."""
    return len(text) <= TOKEN_MAX and _token.fullmatch(text) is not None


def address_of(subject: str) -> Address | None:
    """Tenant and agent of a subject, its last two tokens; None if it has no such two."""
    tokens = subject.rsplit(".", 2)
    if len(tokens) != 3 or not is_token(tokens[1]) or not is_token(tokens[2]):
        return None
    return Address(tokens[1], tokens[2])


def check_subject(subject: str) -> None:
    """Refuse a subject that would break out of its place in a command.

    Raises:
        ValueError: it is empty, too long, or holds white space or control characters.
    """
    if len(subject) > _SUBJECT_MAX or not _SUBJECT.fullmatch(subject):
        raise ValueError(f"{subject[:200]!r} is no subject")
