from __future__ import annotations

import msgspec
import trio
import trio.testing

from actors.runtime.testing import run_actor
from services.claims import Claims, Deliveries
from services.ingest.actors import IngestCounts, Judge, Outlet, Verdicts
from services.ingest.buckets import Buckets
from services.ingest.sequence import Sequences
from tests.services.cast import Notes, delivery
from tests.services.messages import a_batch
from transport.messages import CanonicalBatch, Invalid, encode
from transport.session import Delivery

NOW_MS = 1_800_000_000_000


class Ingest:
    """Judge and outlet with what they share."""

    def __init__(
        self, notes: Notes | None = None, *, rate: int = 10**6, burst: int = 10**6
    ) -> None:
        self.notes = notes or Notes()
        self.claims = Claims(self.notes.session)
        self.counts = IngestCounts()
        self.sequences = Sequences()
        self.judge = Judge(
            claims=self.claims,
            buckets=Buckets(rate_per_sec=rate, burst=burst),
            sequences=self.sequences,
            counts=self.counts,
            clock_ms=lambda: NOW_MS,
        )
        self.outlet = Outlet(session=self.notes.session, claims=self.claims, counts=self.counts)

    async def take(self, *deliveries: Delivery) -> list[Verdicts]:
        self.claims.add(deliveries)
        async with run_actor(self.judge) as stage:
            await stage.context.mailbox.put(Deliveries(deliveries))
        return list(stage.told)

    async def publish(self, *verdicts: Verdicts) -> None:
        async with run_actor(self.outlet, within_secs=60) as stage:
            for each in verdicts:
                await stage.context.mailbox.put(each)


GOOD = delivery(1, encode(a_batch(0)))
BAD = delivery(2, b"garbage\0")


async def test_good_and_bad_go_their_ways_and_are_settled_when_the_broker_has_them() -> None:
    ingest = Ingest()
    await ingest.publish(*await ingest.take(GOOD, BAD))
    canonical, refused = ingest.notes.published
    assert (canonical.subject, canonical.message_id) == (
        "telemetry.accepted.acme.web-1",
        f"acme.web-1.{a_batch(0).batch_id}",
    )
    assert msgspec.json.decode(canonical.payload, type=CanonicalBatch).received_at_unix_ms == NOW_MS
    record = msgspec.json.decode(refused.payload, type=Invalid)
    assert (record.invalid_id, record.reason) == ("TELEMETRY_RAW-2", "invalid")
    assert record.payload == "garbage\\x00"
    assert (ingest.notes.acked, ingest.notes.ended, len(ingest.claims)) == ([1], [2], 0)
    assert (ingest.counts.accepted_events, ingest.counts.invalid["invalid"]) == (5, 1)


async def test_what_the_broker_does_not_take_is_sent_again_and_never_given_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    refusals = [True, True, True]
    ingest = Ingest(Notes(lambda _: not refusals or not refusals.pop()))
    await ingest.publish(*await ingest.take(GOOD))
    assert (ingest.notes.acked, ingest.notes.returned) == ([1], [])
    assert (ingest.counts.republished, ingest.counts.unpublished) == (1, 3)


async def test_what_is_over_the_rate_waits_in_the_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ingest = Ingest(rate=1, burst=5)
    second = delivery(2, encode(a_batch(1, first=5)))
    (verdicts,) = await ingest.take(GOOD, second)
    assert len(verdicts.canonical) == 1
    assert ingest.notes.returned == [(2, 5.0)]
    assert ingest.counts.delayed_messages == 1


async def test_what_comes_again_has_waited_its_turn() -> None:
    ingest = Ingest(rate=1, burst=5)
    again = delivery(2, encode(a_batch(1, first=5)), deliveries=2)
    (verdicts,) = await ingest.take(GOOD, again)
    assert len(verdicts.canonical) == 2


async def test_gaps_and_repeats_are_noticed() -> None:
    ingest = Ingest()
    later = delivery(3, encode(a_batch(2, first=10)))
    await ingest.take(GOOD, later, delivery(4, GOOD.payload))
    counts = ingest.sequences.counts
    assert (counts.gaps, counts.gap_events, counts.repeats) == (1, 5, 1)


async def test_stopped_in_the_middle_the_outlet_gives_back_what_is_not_confirmed() -> None:
    ingest = Ingest(Notes(lambda _: False))
    verdicts = await ingest.take(GOOD)
    with trio.move_on_after(0.3):
        await ingest.publish(*verdicts)
    assert [number for number, _ in ingest.notes.returned] == [1]
    assert len(ingest.claims) == 0
