"""Deliveries: messages out of a stream, in our hands until they are settled."""

from __future__ import annotations

import msgspec

from transport.frames import MESSAGE_ID, decode_ack_subject, decode_headers, header_text
from transport.publishing import Outgoing
from transport.subjects import DEAD_LETTER, ODD, Address, address_of, subject

ORIGINAL_SUBJECT = "Lavender-Subject"
ORIGINAL_STREAM = "Lavender-Stream"
ORIGINAL_SEQUENCE = "Lavender-Sequence"
ORIGINAL_ID = "Lavender-Msg-Id"
ORIGINAL_BYTES = "Lavender-Bytes"
DELIVERIES = "Lavender-Deliveries"
REASON = "Lavender-Reason"
_HEADERS_MAX_BYTES = 16_384


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message as it was delivered, this time."""

    subject: str
    """A byte that is no UTF-8 as a backslash and its number."""
    payload: bytes
    message_id: str
    """Empty if its publisher gave it none."""
    stream: str
    stream_seq: int
    deliveries: int
    """How often it was delivered, this time included."""
    stored_unix_ms: int
    """When the broker stored it, by its clock."""
    reply: str
    """Where to ack."""
    generation: int
    """Of which of the session's connections."""

    @property
    def address(self) -> Address | None:
        """Whose it is; None if its subject does not tell."""
        return address_of(self.subject)


def decode_delivery(
    subject: bytes, reply: bytes, payload: bytes, headers: bytes | None, *, generation: int
) -> Delivery:
    """A delivery of what came over the connection.

    Raises:
        ValueError: it did not come out of a stream.
    """
    reply_text = reply.decode("utf-8", "backslashreplace")
    ack = decode_ack_subject(reply_text)
    fields = decode_headers(headers).fields
    return Delivery(
        subject.decode("utf-8", "backslashreplace"),
        payload,
        fields.get(MESSAGE_ID, ""),
        ack.stream,
        ack.stream_seq,
        ack.deliveries,
        ack.stored_unix_ms,
        reply_text,
        generation,
    )


def dead_letter(
    delivery: Delivery, *, durable: str, payload_max_bytes: int, why: str = ""
) -> Outgoing:
    """``deadletter.<durable>.<tenant>.<agent>``: the message, with its origin in the headers.

    Cut, if with these headers it would be larger than a message may be; its size is in a header.
    """
    headers = {
        ORIGINAL_SUBJECT: header_text(delivery.subject),
        ORIGINAL_STREAM: delivery.stream,
        ORIGINAL_SEQUENCE: str(delivery.stream_seq),
        ORIGINAL_ID: header_text(delivery.message_id),
        ORIGINAL_BYTES: str(len(delivery.payload)),
        DELIVERIES: str(delivery.deliveries),
    }
    if why:
        headers[REASON] = header_text(why, longest=500)
    return Outgoing(
        subject(f"{DEAD_LETTER}.{durable}", delivery.address or ODD),
        delivery.payload[: max(0, payload_max_bytes - _HEADERS_MAX_BYTES)],
        f"{delivery.stream}-{delivery.stream_seq}-{durable}",
        headers,
    )
