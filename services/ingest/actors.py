"""The actors of ingest: one judges what came, one sends on what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from actors.runtime import Actor
from services.claims import Claims, Deliveries
from services.ingest.buckets import Buckets
from services.ingest.sequence import Sequences
from services.ingest.validate import Canonical, Refused, validate
from services.refusals import refusal
from transport.messages import CanonicalBatch, encode
from transport.session import Delivery, Outgoing, Session
from transport.subjects import ACCEPTED, INVALID, Address, address_of, subject

_PUBLISH_WITHIN_SECS = 5.0
_PAUSE_FIRST_SECS = 0.1
_PAUSE_MAX_SECS = 2.0


_Settle: TypeAlias = Callable[[Sequence[Delivery]], None]
_Settled: TypeAlias = tuple[Outgoing, Delivery, _Settle]
"""What to publish, its original, and what becomes of that once it is confirmed."""


@dataclass
class IngestCounts:
    """What ingest did since the start; shared by its actors."""

    accepted_messages: int = 0
    accepted_events: int = 0
    rejected_events: int = 0
    delayed_messages: int = 0
    """Put off by the rate limit; each once."""
    republished: int = 0
    unpublished: int = 0
    """Publishes the broker did not confirm; they were made again."""

    invalid: Counter[str] = field(default_factory=Counter)
    """Refused messages by reason."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What to publish, each with the message that is settled by it (judge to outlet)."""

    canonical: Sequence[tuple[Outgoing, Delivery]]
    invalid: Sequence[tuple[Outgoing, Delivery]]

    def __len__(self) -> int:
        return len(self.canonical) + len(self.invalid)


class Judge(Actor):
    """Validates messages, holds each agent to its rate, follows its sequence numbers.

    Args:
        claims: to put messages off.
        buckets: the rates.
        sequences: the numbers.
        counts: what was done.
        clock_ms: Unix time in milliseconds, the stamp of reception.
    """

    accepts = (Deliveries,)
    emits = (Verdicts,)

    def __init__(
        self,
        *,
        claims: Claims,
        buckets: Buckets,
        sequences: Sequences,
        counts: IngestCounts,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._claims = claims
        self._buckets = buckets
        self._sequences = sequences
        self._counts = counts
        self._clock_ms = clock_ms

    async def handle(self, message: Deliveries) -> None:
        """Judge each message; those that have to wait are given back with a delay."""
        with self._claims.settling(message.items):
            await self._judge(message)

    async def _judge(self, message: Deliveries) -> None:
        now_ms = self._clock_ms()
        canonical: list[tuple[Outgoing, Delivery]] = []
        invalid: list[tuple[Outgoing, Delivery]] = []
        for delivery in message.items:
            address = address_of(delivery.subject)
            found = validate(delivery.payload, address, received_at_unix_ms=now_ms)
            if isinstance(found, Refused):
                self._counts.invalid[found.reason] += 1
                invalid.append((_refusal(delivery, address, found, now_ms), delivery))
            elif not self._put_off(delivery, address, found):
                self._note(address, found)
                canonical.append((_republished(found, address), delivery))
        if canonical or invalid:
            await self.context.tell(Verdicts(canonical, invalid))
        else:
            await trio.lowlevel.checkpoint()

    def _put_off(self, delivery: Delivery, address: Address, found: Canonical) -> bool:
        """Whether an agent is above its rate. A message that comes again has waited its turn."""
        if delivery.deliveries > 1:
            return False
        events = len(found.events) if isinstance(found, CanonicalBatch) else 1
        delay_secs = self._buckets.take(address, events, now_secs=trio.current_time())
        if not delay_secs:
            return False
        self._counts.delayed_messages += 1
        self._claims.give_back([delivery], delay_secs=delay_secs)
        return True

    def _note(self, address: Address, found: Canonical) -> None:
        counts = self._counts
        counts.accepted_messages += 1
        if isinstance(found, CanonicalBatch):
            counts.accepted_events += len(found.events)
            counts.rejected_events += len(found.rejected)
            self._sequences.observe((*address, found.epoch), found.first_seq, found.last_seq)
        else:
            counts.accepted_events += 1


class Outlet(Actor):
    """Publishes verdicts, and settles the originals of what the broker has confirmed.

    What the broker does not take now, for lack of room or because it restarts, is tried again here:
    given back, it would soon have been delivered too often.

    Args:
        session: the broker.
        claims: to settle.
        counts: what was done.
    """

    accepts = (Verdicts,)

    def __init__(self, *, session: Session, claims: Claims, counts: IngestCounts) -> None:
        self._session = session
        self._claims = claims
        self._counts = counts

    async def handle(self, message: Verdicts) -> None:
        """Publish all at once, until all are confirmed."""
        left: list[_Settled] = [
            *((*pair, self._claims.ack) for pair in message.canonical),
            *((*pair, self._claims.end) for pair in message.invalid),
        ]
        with self._claims.settling([delivery for _, delivery, _ in left]):
            pause_secs = _PAUSE_FIRST_SECS
            while left := await self._publish(left):
                await trio.sleep(pause_secs)
                pause_secs = min(2 * pause_secs, _PAUSE_MAX_SECS)

    async def _publish(self, messages: Sequence[_Settled]) -> list[_Settled]:
        """Publish and settle; what was not confirmed."""
        receipts = await self._session.publish_all(
            [outgoing for outgoing, _, _ in messages], within_secs=_PUBLISH_WITHIN_SECS
        )
        failed = []
        settled: dict[_Settle, list[Delivery]] = {}
        why = ""
        for receipt, each in zip(receipts, messages, strict=True):
            if receipt.stored:
                settled.setdefault(each[2], []).append(each[1])
            else:
                failed.append(each)
                why = receipt.error
        for settle, deliveries in settled.items():
            settle(deliveries)
        self._counts.republished += len(messages) - len(failed)
        self._counts.unpublished += len(failed)
        if failed:
            self.context.log.warning(
                "broker did not take what ingest publishes; it is sent again",
                messages=len(failed),
                why=why,
            )
        return failed


def _republished(found: Canonical, address: Address) -> Outgoing:
    own = found.batch_id if isinstance(found, CanonicalBatch) else found.event_id
    # With the address in front: one agent cannot make another's message look like a repeat.
    return Outgoing(subject(ACCEPTED, address), encode(found), f"{'.'.join(address)}.{own}")


def _refusal(delivery: Delivery, address: Address, found: Refused, now_ms: int) -> Outgoing:
    record = refusal(
        delivery, address, reason=found.reason, detail=found.detail, received_at_unix_ms=now_ms
    )
    return Outgoing(subject(INVALID, address), encode(record), record.invalid_id)
