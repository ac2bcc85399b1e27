"""Refusals: the record of a message that was not accepted, fit to be stored whatever it holds.

Its subject, its id and its size are such that the broker always takes it.
"""

from __future__ import annotations

from typing import Any

from transport.messages import Invalid, encode
from transport.session import Delivery, Outgoing
from transport.subjects import INVALID, ODD, Address, subject

_SHOWN_MAX = 4096
_DETAIL_MAX = 500
_SUBJECT_SHOWN_MAX = 200


ODD_SUBJECT = "odd_subject"
"""The reason of those whose subject names no tenant and agent."""

UNPUBLISHABLE = "unpublishable"
"""The reason of those that the broker can never take in the form that they would go on in."""


def check_sender(message: Any, delivery: Delivery) -> Address:
    """Whose a decoded message is, by its subject, which the broker vouches for.

    Raises:
        ValueError: the subject names nobody, or somebody else than the message does.
    """
    address = delivery.address
    if address is None:
        raise ValueError("its subject names no tenant and agent")
    if Address(message.tenant_id, message.agent_id) != address:
        claimed = f"{message.tenant_id}.{message.agent_id}"
        raise ValueError(f"claims to be {claimed} on a subject of {'.'.join(address)}")
    return address


def refusal(
    delivery: Delivery,
    *,
    reason: str,
    detail: str,
    received_at_unix_ms: int,
    part: tuple[int | str, bytes] | None = None,
) -> Outgoing:
    """The record of a refused message, to be published; the beginning of its payload as text.

    With a ``part``, of one thing in it or made of it: its name and its text. A message whose
    subject names nobody is recorded under `ODD`, with the subject in the detail.
    """
    whole = f"{delivery.stream}-{delivery.stream_seq}"
    payload = delivery.payload if part is None else part[1]
    address = delivery.address
    if address is None:
        detail = f"on {delivery.subject[:_SUBJECT_SHOWN_MAX]!a}: {detail}"
        address = ODD
    record = Invalid(
        invalid_id=whole if part is None else f"{whole}-{part[0]}",
        tenant_id=address.tenant_id,
        agent_id=address.agent_id,
        reason=reason,
        detail=_storable(detail)[:_DETAIL_MAX],
        size_bytes=len(payload),
        received_at_unix_ms=received_at_unix_ms,
        payload=_storable(payload[:_SHOWN_MAX].decode("utf-8", "backslashreplace")),
    )
    return Outgoing(subject(INVALID, address), encode(record), record.invalid_id)


def _storable(text: str) -> str:
    """Without NUL, which PostgreSQL does not take."""
    return text.replace("\0", "\\x00")
