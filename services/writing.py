"""Writing: the shape that all writers share. Decode, store, settle; one transaction for a batch.

What does not decode goes to the invalid lane. What the store refuses is tried one by one, and what
it still refuses goes to the dead letters. While the store is away nothing is acked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import trio

from actors.runtime import Actor
from services.buckets import Buckets
from services.claims import Claims, Deliveries
from services.gate import Gate
from services.publishing import PUBLISH_WITHIN_SECS
from services.refusals import check_sender, refusal
from services.store.interface import Added, Store, StoreRefused
from transport.session import Delivery, Outgoing, Session
from transport.subjects import ODD

_TOKEN_BYTES = 16_384
"""A message takes one token of its agent's, and one more for each so many bytes."""
_Undecodable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


@dataclass(slots=True)
class WriteCounts:
    """What a writer did since the start."""

    messages: int = 0
    """Messages that were new to the store."""
    rows: int = 0
    duplicates: int = 0
    """Messages the store had already."""
    invalid: int = 0
    """Messages that did not decode, or lied about their sender."""
    dead_lettered: int = 0
    """Messages the store refused for good."""
    delayed: int = 0
    """Messages of agents above their rate, put off once each."""
    given_up: int = 0
    """Messages of which not even a record could be published."""
    transactions: int = 0

    def add(self, added: Added) -> None:
        """Count what one call stored."""
        self.messages += added.messages
        self.rows += added.rows
        self.duplicates += added.duplicates
        self.transactions += 1


class Writer(Actor):
    """Base of the writers: one for each kind of message.

    Args:
        session: for what cannot be stored.
        claims: the messages' record.
        gate: the store.
        counts: what was done.
        durable: its consumer's name, for the dead letters.
        buckets: how much each agent may send; None where that was decided before.
    """

    accepts = (Deliveries,)
    #: Whether tenant and agent in the payload must be those of the subject.
    checks_subject: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913 - what it needs, by name
        self,
        *,
        session: Session,
        claims: Claims,
        gate: Gate,
        counts: WriteCounts,
        durable: str,
        buckets: Buckets | None = None,
    ) -> None:
        self._session = session
        self._claims = claims
        self._gate = gate
        self._counts = counts
        self._durable = durable
        self._buckets = buckets

    def decode(self, payload: bytes, *, now_unix_ms: int) -> Any:
        """The message of a payload, as the store takes it."""
        raise NotImplementedError

    async def add(self, store: Store, messages: Sequence[Any]) -> Added:
        """Store messages."""
        raise NotImplementedError

    async def handle(self, message: Deliveries) -> None:
        """Store a batch of messages and settle them."""
        with self._claims.settling(message.items):
            now_ms = time.time_ns() // 1_000_000
            good: list[tuple[Delivery, Any]] = []
            bad: list[tuple[Delivery, str]] = []
            for delivery in message.items:
                if self._put_off(delivery):
                    continue
                try:
                    good.append((delivery, self._decoded(delivery, now_ms)))
                except _Undecodable as error:
                    bad.append((delivery, str(error)))
            await self._store(good)
            if bad:
                await self._refuse(bad, now_ms)

    def _put_off(self, delivery: Delivery) -> bool:
        """Whether an agent is above its rate. A message that comes again has waited its turn."""
        if self._buckets is None or delivery.deliveries > 1:
            return False
        now_secs = trio.current_time()
        tokens = 1 + len(delivery.payload) // _TOKEN_BYTES
        delay_secs = self._buckets.take(delivery.address or ODD, tokens, now_secs=now_secs)
        if not delay_secs:
            return False
        self._counts.delayed += 1
        self._claims.put_off([delivery], delay_secs=delay_secs)
        return True

    def _decoded(self, delivery: Delivery, now_ms: int) -> Any:
        decoded = self.decode(delivery.payload, now_unix_ms=now_ms)
        if self.checks_subject:
            check_sender(decoded, delivery)
        return decoded

    async def _store(self, good: Sequence[tuple[Delivery, Any]]) -> None:
        await trio.lowlevel.checkpoint()
        if not good:
            return
        messages = [decoded for _, decoded in good]
        try:
            self._counts.add(await self._gate.call(lambda store: self.add(store, messages)))
        except StoreRefused as error:
            if len(good) == 1:
                await self._bury(good[0][0], str(error))
                return
            for each in good:
                await self._store([each])
            return
        self._claims.ack([delivery for delivery, _ in good])

    async def _refuse(self, bad: Sequence[tuple[Delivery, str]], now_ms: int) -> None:
        """Send to the invalid lane what cannot be understood."""
        self._counts.invalid += len(bad)
        outgoing = [
            refusal(delivery, reason="invalid", detail=why, received_at_unix_ms=now_ms)
            for delivery, why in bad
        ]
        await self._settle([delivery for delivery, _ in bad], outgoing)

    async def _bury(self, delivery: Delivery, why: str) -> None:
        self._counts.dead_lettered += 1
        self.context.log.error(
            "store refuses a message; it goes to the dead letters",
            subject=delivery.subject,
            stream_seq=delivery.stream_seq,
            why=why,
        )
        letter = self._session.dead_letter(delivery, durable=self._durable, why=why)
        await self._settle([delivery], [letter])

    async def _settle(self, deliveries: Sequence[Delivery], outgoing: Sequence[Outgoing]) -> None:
        """End the messages whose record the broker has, or can never have; others come again."""
        receipts = await self._session.publish_all(outgoing, within_secs=PUBLISH_WITHIN_SECS)
        for delivery, receipt in zip(deliveries, receipts, strict=True):
            if receipt.stored:
                self._claims.end([delivery])
            elif receipt.permanent:
                self._counts.given_up += 1
                self.context.log.error(
                    "message is given up: not even a record of it can be published",
                    subject=delivery.subject,
                    stream_seq=delivery.stream_seq,
                    why=receipt.error,
                )
                self._claims.end([delivery])
            else:
                self._claims.give_back([delivery])
