"""A make-believe session for the actors of the services: it notes what is settled and published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import trio

from tests.broker.kit import until
from transport.deliveries import dead_letter
from transport.session import Delivery, Outgoing, Receipt, Session


class Notes:
    """What a session was told.

    Args:
        takes: says whether a publish is stored.
        never: says whether one can never be.
        full: says whether its subject has as many messages as it may.
    """

    def __init__(
        self,
        takes: Callable[[Outgoing], bool] = lambda _: True,
        *,
        never: Callable[[Outgoing], bool] = lambda _: False,
        full: Callable[[Outgoing], bool] = lambda _: False,
    ) -> None:
        self.takes = takes
        self.never = never
        self.full = full
        self.acked: list[int] = []
        self.returned: list[tuple[int, float]] = []
        self.ended: list[int] = []
        self.kept: list[int] = []
        self.published: list[Outgoing] = []
        self.shouted: list[tuple[str, bytes]] = []
        """What went out without an ack."""
        self.connected = True

    async def wait_connected(self) -> None:
        await until(lambda: self.connected)

    def publish_core(self, subject: str, payload: bytes) -> bool:
        if self.connected:
            self.shouted.append((subject, payload))
        return self.connected

    @property
    def session(self) -> Session:
        """Itself, as what it stands for."""
        return cast("Session", self)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acked += [each.stream_seq for each in deliveries]

    def nak(self, deliveries: Sequence[Delivery], *, delay_secs: float = 0.0) -> None:
        self.returned += [(each.stream_seq, delay_secs) for each in deliveries]

    def term(self, deliveries: Sequence[Delivery]) -> None:
        self.ended += [each.stream_seq for each in deliveries]

    def working(self, deliveries: Sequence[Delivery]) -> None:
        self.kept += [each.stream_seq for each in deliveries]

    async def publish_all(
        self, messages: Sequence[Outgoing], *, within_secs: float
    ) -> list[Receipt]:
        await trio.lowlevel.checkpoint()
        receipts = []
        for message in messages:
            never, full = self.never(message), self.full(message)
            stored = not never and not full and self.takes(message)
            if stored:
                self.published.append(message)
            why = "" if stored else "too large" if never else "no room"
            receipts.append(Receipt(stored=stored, error=why, permanent=never, subject_full=full))
        return receipts

    def dead_letter(self, delivery: Delivery, *, durable: str, why: str = "") -> Outgoing:
        return dead_letter(delivery, durable=durable, payload_max_bytes=1 << 20, why=why)


def delivery(
    number: int, payload: bytes, *, subject: str = "telemetry.raw.acme.web-1", **more: Any
) -> Delivery:
    """Message ``number`` of a stream."""
    values: dict[str, Any] = {
        "subject": subject,
        "payload": payload,
        "message_id": f"id-{number}",
        "stream": "TELEMETRY_RAW",
        "stream_seq": number,
        "deliveries": 1,
        "stored_unix_ms": 0,
        "reply": "",
        "generation": 1,
    }
    return Delivery(**{**values, **more})
