from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from actors.runtime.testing import run_actor
from services.buckets import Buckets
from services.claims import Claims, Deliveries
from services.ingest import actors
from services.ingest.actors import IngestCounts, Judge, Outlet, Verdicts
from services.ingest.sequence import Sequences
from tests.services.cast import Notes, delivery
from tests.services.messages import a_batch
from transport.messages import CanonicalBatch, Invalid, encode
from transport.session import Delivery, Outgoing

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


CONTROL = "a\x01b"


def single(event_id: str) -> bytes:
    """A message of the first version."""
    values = {"schema_version": 1, "agent_id": "web-1", "tenant_id": "acme"}
    values |= {"host": {"hostname": "h"}, "observed_at_unix_ms": 1, "event_id": event_id}
    return msgspec.json.encode(values | {"event": {"type": "exit", "pid": 1}})


def record_of(message: Outgoing) -> Invalid:
    return msgspec.json.decode(message.payload, type=Invalid)


async def test_what_the_broker_can_never_take_is_refused_and_what_is_beside_it_passes() -> None:
    large = delivery(2, encode(a_batch(1, first=5)))
    ingest = Ingest(Notes(never=lambda message: message.message_id.endswith("-1")))
    await ingest.publish(*await ingest.take(GOOD, large))
    good, refused = ingest.notes.published
    assert good.subject == "telemetry.accepted.acme.web-1"
    assert record_of(refused).reason == "unpublishable"
    assert (ingest.notes.acked, ingest.notes.ended, ingest.notes.returned) == ([1], [2], [])
    assert (ingest.counts.unpublishable, ingest.counts.invalid["unpublishable"]) == (1, 1)


async def test_what_cannot_even_be_refused_is_given_up_and_what_is_beside_it_passes() -> None:
    ingest = Ingest(Notes(never=lambda message: message.subject.startswith("telemetry.invalid")))
    await ingest.publish(*await ingest.take(BAD, GOOD))
    assert (ingest.notes.acked, ingest.notes.ended) == ([1], [2])
    assert ingest.counts.unpublishable == 1


@pytest.mark.parametrize(
    "subject",
    [
        "telemetry.raw",
        "alerts.x",
        "telemetry.raw.acme.e\u00a0l",
        "telemetry.raw.acme.e\\xff",
        "a..b",
    ],
)
async def test_a_message_on_an_odd_subject_is_recorded_under_a_fixed_one(subject: str) -> None:
    ingest = Ingest()
    await ingest.publish(*await ingest.take(delivery(1, GOOD.payload, subject=subject)))
    (refused,) = ingest.notes.published
    record = record_of(refused)
    assert refused.subject == "telemetry.invalid.odd.odd"
    assert (record.tenant_id, record.agent_id, record.reason) == ("odd", "odd", "odd_subject")
    assert subject.encode("ascii", "backslashreplace").decode().replace("\\", "") in (
        record.detail.replace("\\", "")
    )
    assert ingest.notes.ended == [1]


async def test_an_event_id_that_no_header_holds_is_refused() -> None:
    ingest = Ingest()
    await ingest.publish(
        *await ingest.take(delivery(1, single(CONTROL)), delivery(2, single("7f1c")))
    )
    good, refused = ingest.notes.published
    assert good.message_id == "acme.web-1.7f1c"
    assert record_of(refused).invalid_id == "TELEMETRY_RAW-1"


async def test_what_grows_too_large_in_its_canonical_form_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actors, "CANONICAL_MAX_BYTES", len(GOOD.payload))
    ingest = Ingest()
    await ingest.publish(*await ingest.take(GOOD))
    (refused,) = ingest.notes.published
    assert record_of(refused).reason == "too_large"


@pytest.mark.parametrize(
    ("payload", "tokens"),
    [
        (GOOD.payload, 5),
        (encode(a_batch(0, count=0)), 1),
        (b"garbage", 16),
        (b"x" * 100_000, 98),
        (single("a"), 1),
        (encode(a_batch(0)).replace(b'"pid":100', b'"pid":-99'), 5),
    ],
)
async def test_every_message_takes_of_its_agents_rate(payload: bytes, tokens: int) -> None:
    ingest = Ingest(rate=1, burst=tokens)
    await ingest.take(delivery(1, payload))
    assert ingest.counts.delayed_messages == 0
    await ingest.take(delivery(2, encode(a_batch(1, first=5, count=0))))
    assert [number for number, _ in ingest.notes.returned] == [2]
