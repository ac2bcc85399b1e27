"""Refusals: the record of a message that was not accepted, fit to be stored whatever it holds."""

from __future__ import annotations

from transport.messages import Invalid
from transport.session import Delivery
from transport.subjects import Address

_SHOWN_MAX = 4096
_DETAIL_MAX = 500
_TOKEN_MAX = 64


def refusal(  # noqa: PLR0913 - what is known of one refusal
    delivery: Delivery,
    address: Address,
    *,
    reason: str,
    detail: str,
    received_at_unix_ms: int,
    part: tuple[int, bytes] | None = None,
) -> Invalid:
    """What is kept of a refused message; the beginning of its payload as text.

    With a ``part``, of one event of it: its sequence number and its text.
    """
    whole = f"{delivery.stream}-{delivery.stream_seq}"
    payload = delivery.payload if part is None else part[1]
    return Invalid(
        invalid_id=whole if part is None else f"{whole}-{part[0]}",
        tenant_id=_token(address.tenant_id),
        agent_id=_token(address.agent_id),
        reason=reason,
        detail=_storable(detail)[:_DETAIL_MAX],
        size_bytes=len(payload),
        received_at_unix_ms=received_at_unix_ms,
        payload=_storable(payload[:_SHOWN_MAX].decode("utf-8", "backslashreplace")),
    )


def _storable(text: str) -> str:
    """Without NUL, which PostgreSQL does not take."""
    return text.replace("\0", "\\x00")


def _token(token: str) -> str:
    """A token of a subject as a `transport.messages.Token`: the broker allows longer and odder."""
    shown = "".join(each if each.isprintable() and not each.isspace() else "?" for each in token)
    return shown[:_TOKEN_MAX] or "?"
