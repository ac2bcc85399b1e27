"""Subjects: how tenant and agent stand in the names of what travels.

A subject is ``<prefix>.<tenant>.<agent_id>``; the prefixes are those of the documentation.
"""

from __future__ import annotations

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


class Address(NamedTuple):
    """Whose message it is."""

    tenant_id: str
    agent_id: str


def subject(prefix: str, address: Address) -> str:
    """The subject of one agent under a prefix."""
    return f"{prefix}.{address.tenant_id}.{address.agent_id}"


def address_of(subject: str) -> Address:
    """Tenant and agent of a subject: its last two tokens.

    Raises:
        ValueError: it has fewer than three tokens.
    """
    tokens = subject.rsplit(".", 2)
    if len(tokens) != 3:
        raise ValueError(f"subject {subject!r} names no tenant and agent")
    return Address(tokens[1], tokens[2])
