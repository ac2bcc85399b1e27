"""The actors of ingest: one judges what came, one sends on what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from actors.runtime import Actor
from services.buckets import Buckets
from services.claims import Claims, Deliveries
from services.ingest.sequence import Sequences
from services.ingest.validate import CANONICAL_MAX_BYTES, Canonical, Refused, validate
from services.publishing import publish_for_good
from services.refusals import ODD_SUBJECT, UNPUBLISHABLE, refusal
from transport.messages import CanonicalBatch, encode
from transport.session import Delivery, Outgoing, Session
from transport.subjects import ACCEPTED, ODD, Address, subject

_TOKEN_BYTES = 1024
"""A message takes as many of its agent's tokens as it makes rows, or has KiB if those are more."""
_REFUSED_TOKENS = 16
"""One that is refused takes at least so many: it becomes a row with its text."""


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
    unpublishable: int = 0
    """Messages the broker can never take; records of them went to the invalid lane."""

    invalid: Counter[str] = field(default_factory=Counter)
    """Refused messages by reason."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What to publish, each with the message that is settled by it (judge to outlet)."""

    canonical: Sequence[tuple[Outgoing, Delivery]]
    invalid: Sequence[tuple[Outgoing, Delivery]]

    def __len__(self) -> int:
        return len(self.canonical) + len(self.invalid)


class _Good(NamedTuple):
    """A message that goes on."""

    address: Address
    found: Canonical
    payload: bytes


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
            found = _judged(delivery, now_ms)
            if self._put_off(delivery, found):
                continue
            if isinstance(found, Refused):
                self._counts.invalid[found.reason] += 1
                invalid.append((_refusal(delivery, found, now_ms), delivery))
            else:
                self._note(found)
                canonical.append((_republished(found), delivery))
        if canonical or invalid:
            await self.context.tell(Verdicts(canonical, invalid))
        else:
            await trio.lowlevel.checkpoint()

    def _put_off(self, delivery: Delivery, found: _Good | Refused) -> bool:
        """Whether an agent is above its rate. A message that comes again has waited its turn."""
        if delivery.deliveries > 1:
            return False
        delay_secs = self._buckets.take(
            delivery.address or ODD, _tokens(delivery, found), now_secs=trio.current_time()
        )
        if not delay_secs:
            return False
        self._counts.delayed_messages += 1
        self._claims.put_off([delivery], delay_secs=delay_secs)
        return True

    def _note(self, good: _Good) -> None:
        counts, found = self._counts, good.found
        counts.accepted_messages += 1
        if isinstance(found, CanonicalBatch):
            counts.accepted_events += len(found.events)
            counts.rejected_events += len(found.rejected)
            self._sequences.observe(good.address, found.epoch, found.first_seq, found.last_seq)
        else:
            counts.accepted_events += 1


class Outlet(Actor):
    """Publishes verdicts, and settles the originals of what the broker has confirmed.

    What the broker does not take now, for lack of room or because it restarts, is tried again here:
    given back, it would soon have been delivered too often. What it can never take goes to the
    invalid lane, and what is beside it passes.

    Args:
        session: the broker.
        claims: to settle.
        counts: what was done.
        clock_ms: Unix time in milliseconds.
    """

    accepts = (Verdicts,)

    def __init__(
        self,
        *,
        session: Session,
        claims: Claims,
        counts: IngestCounts,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._session = session
        self._claims = claims
        self._counts = counts
        self._clock_ms = clock_ms

    async def handle(self, message: Verdicts) -> None:
        """Publish all at once, until all are confirmed."""
        pairs = [*message.canonical, *message.invalid]
        refused = set(range(len(message.canonical), len(pairs)))

        def done(indices: list[int]) -> None:
            good = [index for index in indices if index not in refused]
            self._claims.ack([pairs[index][1] for index in good])
            self._claims.end([pairs[index][1] for index in indices if index in refused])
            self._counts.republished += len(indices)

        def instead(index: int, why: str) -> Outgoing | None:
            if index in refused:
                return None
            refused.add(index)
            self._counts.invalid[UNPUBLISHABLE] += 1
            return _refusal(pairs[index][1], Refused(UNPUBLISHABLE, why), self._clock_ms())

        with self._claims.settling([delivery for _, delivery in pairs]):
            await publish_for_good(
                self._session,
                [outgoing for outgoing, _ in pairs],
                done=done,
                instead=instead,
                counts=self._counts,
                log=self.context.log,
            )


def _judged(delivery: Delivery, now_ms: int) -> _Good | Refused:
    """What a message is, and how it goes on."""
    address = delivery.address
    if address is None:
        return Refused(ODD_SUBJECT, "its subject names no tenant and agent")
    found = validate(delivery.payload, address, received_at_unix_ms=now_ms)
    if isinstance(found, Refused):
        return found
    payload = encode(found)
    if len(payload) > CANONICAL_MAX_BYTES:
        why = f"{len(payload)} bytes once defaults are written out; {CANONICAL_MAX_BYTES} may be"
        return Refused("too_large", why)
    return _Good(address, found, payload)


def _tokens(delivery: Delivery, found: _Good | Refused) -> int:
    """What a message takes of its agent's rate."""
    size = -(-len(delivery.payload) // _TOKEN_BYTES)
    if isinstance(found, Refused):
        return max(_REFUSED_TOKENS, size)
    batch = found.found
    if isinstance(batch, CanonicalBatch):
        told = len(batch.counters.evicted) + len(batch.counters.gaps)
        return max(1, size, len(batch.events) + len(batch.rejected) + told)
    return max(1, size)


def _republished(good: _Good) -> Outgoing:
    found = good.found
    own = found.batch_id if isinstance(found, CanonicalBatch) else found.event_id
    # With the address in front: one agent cannot make another's message look like a repeat.
    message_id = f"{'.'.join(good.address)}.{own}"
    return Outgoing(subject(ACCEPTED, good.address), good.payload, message_id)


def _refusal(delivery: Delivery, found: Refused, now_ms: int) -> Outgoing:
    return refusal(delivery, reason=found.reason, detail=found.detail, received_at_unix_ms=now_ms)
