"""Refusals: the record of a message that was not accepted, fit to be stored whatever it holds."""

from __future__ import annotations

from transport.messages import Invalid
from transport.session import Delivery
from transport.subjects import Address

_SHOWN_MAX = 4096
_DETAIL_MAX = 500
_TOKEN_MAX = 64


def refusal(
    delivery: Delivery,
    address: Address,
    *,
    reason: str,
    detail: str,
    received_at_unix_ms: int,
) -> Invalid:
    """What is kept of a refused message; the beginning of its payload as text."""
    return Invalid(
        invalid_id=f"{delivery.stream}-{delivery.stream_seq}",
        tenant_id=_token(address.tenant_id),
        agent_id=_token(address.agent_id),
        reason=reason,
        detail=_storable(detail)[:_DETAIL_MAX],
        size_bytes=len(delivery.payload),
        received_at_unix_ms=received_at_unix_ms,
        payload=_storable(delivery.payload[:_SHOWN_MAX].decode("utf-8", "backslashreplace")),
    )


def _storable(text: str) -> str:
    """Without NUL, which PostgreSQL does not take."""
    return text.replace("\0", "\\x00")


def _token(token: str) -> str:
    """A token of a subject as a `transport.messages.Token`: the broker allows longer and odder."""
    shown = "".join(each if each.isprintable() and not each.isspace() else "?" for each in token)
    return shown[:_TOKEN_MAX] or "?"
