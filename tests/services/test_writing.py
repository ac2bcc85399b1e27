from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import trio.testing

from actors.runtime.testing import run_actor
from services.alert_writer.actors import AlertWriter
from services.buckets import Buckets
from services.claims import Claims, Deliveries
from services.gate import Gate
from services.store.interface import Added, StoreRefused, StoreUnavailable
from services.telemetry_writer.actors import InvalidWriter, Retainer, TelemetryWriter
from services.writing import WriteCounts, Writer
from tests.services.cast import Notes, delivery
from tests.services.messages import a_batch
from transport.messages import Alert, CanonicalBatch, Invalid, encode


class Shelf:
    """A store that keeps what it is given, but for what ``accepts`` refuses."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.calls: list[int] = []
        self.away = 0
        self.accepts: Callable[[Any], bool] = lambda _: True
        self.retained: list[int] = []

    async def open(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _add(self, messages: Sequence[Any]) -> Added:
        await trio.lowlevel.checkpoint()
        self.calls.append(len(messages))
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        if not all(map(self.accepts, messages)):
            raise StoreRefused("a value does not fit")
        self.kept += messages
        return Added(messages=len(messages), rows=len(messages))

    add_telemetry = add_alerts = add_invalid = _add

    async def retain(self, now_unix_ms: int) -> None:
        await trio.lowlevel.checkpoint()
        self.retained.append(now_unix_ms)


class Desk:
    """A writer with a shelf behind it."""

    def __init__(self, kind: type[Writer], *, buckets: Buckets | None = None) -> None:
        self.shelf = Shelf()
        self.notes = Notes()
        self.claims = Claims(self.notes.session)
        self.counts = WriteCounts()
        self.writer = kind(
            session=self.notes.session,
            claims=self.claims,
            gate=Gate(self.shelf),  # type: ignore[arg-type]  # as much of a store as is needed
            counts=self.counts,
            durable="a-writer",
            buckets=buckets,
        )

    async def write(self, *payloads: bytes, subject: str = "telemetry.accepted.acme.web-1") -> None:
        deliveries = [
            delivery(number, payload, subject=subject, stream="S")
            for number, payload in enumerate(payloads, 1)
        ]
        self.claims.add(deliveries)
        async with run_actor(self.writer, within_secs=60) as stage:
            await stage.context.mailbox.put(Deliveries(deliveries))


def canonical(number: int, **changes: Any) -> bytes:
    batch = a_batch(number, first=5 * number, **changes)
    values = {name: getattr(batch, name) for name in batch.__struct_fields__}
    return encode(CanonicalBatch(**values, received_at_unix_ms=5))


ALERT = Alert(
    alert_id="0" * 36,
    tenant_id="acme",
    agent_id="web-1",
    hostname="web",
    rule="T1059",
    severity="INFO",
    detail="x",
    event_type="exec",
    event_pid=1,
    event_comm="sh",
    created_at_unix_ms=1,
    observed_at_unix_ms=1,
)


async def test_a_batch_is_one_transaction_and_then_acked() -> None:
    desk = Desk(TelemetryWriter)
    await desk.write(canonical(0), canonical(1), canonical(2))
    assert (desk.shelf.calls, desk.notes.acked, len(desk.claims)) == ([3], [1, 2, 3], 0)
    assert (desk.counts.messages, desk.counts.transactions) == (3, 1)


async def test_while_the_store_is_away_nothing_is_acked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk(TelemetryWriter)
    desk.shelf.away = 5
    await desk.write(canonical(0))
    assert (len(desk.shelf.calls), desk.notes.acked, desk.notes.returned) == (6, [1], [])


async def test_one_that_the_store_refuses_goes_to_the_dead_letters_alone() -> None:
    desk = Desk(TelemetryWriter)
    desk.shelf.accepts = lambda message: message.first_seq != 5
    await desk.write(canonical(0), canonical(1), canonical(2))
    assert [message.first_seq for message in desk.shelf.kept] == [0, 10]
    assert (sorted(desk.notes.acked), desk.notes.ended) == ([1, 3], [2])
    (letter,) = desk.notes.published
    assert (letter.subject, letter.payload) == ("deadletter.a-writer.acme.web-1", canonical(1))
    assert desk.counts.dead_lettered == 1


@pytest.mark.parametrize(
    ("payload", "why"),
    [(b"{", "truncated"), (canonical(0, tenant_id="other"), "claims to be other.web-1")],
)
async def test_what_cannot_be_believed_goes_to_the_invalid_lane(payload: bytes, why: str) -> None:
    desk = Desk(TelemetryWriter)
    await desk.write(canonical(1), payload)
    assert (desk.notes.acked, desk.notes.ended, desk.counts.invalid) == ([1], [2], 1)
    (refused,) = desk.notes.published
    assert why in msgspec.json.decode(refused.payload, type=Invalid).detail


async def test_what_has_no_place_in_the_invalid_lane_comes_again() -> None:
    desk = Desk(TelemetryWriter)
    desk.notes.takes = lambda _: False
    await desk.write(b"{")
    assert [number for number, _ in desk.notes.returned] == [1]


@pytest.mark.parametrize(
    "subject", ["alerts.x", "alerts", "alerts.acme.e\u00a0l", "alerts.a.b\\xff"]
)
async def test_an_alert_on_an_odd_subject_is_refused_and_nothing_raises(subject: str) -> None:
    desk = Desk(AlertWriter)
    await desk.write(encode(ALERT), b'{"stream":"TELEMETRY_RAW","seq":1}', subject=subject)
    assert (desk.notes.acked, desk.notes.ended, desk.counts.invalid) == ([], [1, 2], 2)
    assert {each.subject for each in desk.notes.published} == {"telemetry.invalid.odd.odd"}


async def test_what_the_store_refuses_is_buried_under_an_odd_subject_too() -> None:
    desk = Desk(InvalidWriter)
    desk.shelf.accepts = lambda _: False
    await desk.write(encode(RECORD), subject="telemetry.invalid.x.e\u00a0l")
    (letter,) = desk.notes.published
    assert letter.subject == "deadletter.a-writer.odd.odd"
    assert letter.headers is not None
    assert letter.headers["Lavender-Reason"] == "a value does not fit"


async def test_what_can_never_have_a_record_is_given_up() -> None:
    desk = Desk(TelemetryWriter)
    desk.notes.never = lambda _: True
    await desk.write(b"{", canonical(1))
    assert (desk.notes.ended, desk.notes.acked, desk.notes.returned) == ([1], [2], [])
    assert desk.counts.given_up == 1


async def test_alerts_above_an_agents_rate_wait_their_turn() -> None:
    desk = Desk(AlertWriter, buckets=Buckets(rate_per_sec=1, burst=2))
    many = [msgspec.structs.replace(ALERT, alert_id=f"{number:036}") for number in range(4)]
    await desk.write(*map(encode, many), subject="alerts.acme.web-1")
    assert (desk.notes.acked, desk.counts.delayed) == ([1, 2], 2)
    assert [number for number, _ in desk.notes.returned] == [3, 4]
    assert [secs for _, secs in desk.notes.returned] == pytest.approx([1.0, 2.0], abs=0.5)


async def test_an_alert_is_stamped_and_its_nuls_are_replaced() -> None:
    desk = Desk(AlertWriter)
    nul = msgspec.structs.replace(ALERT, detail="a\0b", alert_id="1" * 36)
    await desk.write(encode(ALERT), encode(nul), subject="alerts.acme.web-1")
    first, second = desk.shelf.kept
    assert first.received_at_unix_ms > 1_700_000_000_000
    assert second.detail == "a\ufffdb"


RECORD = Invalid(
    invalid_id="S-1",
    tenant_id="odd?",
    agent_id="web-1",
    reason="invalid",
    detail="",
    size_bytes=1,
    received_at_unix_ms=1,
    payload="",
)


async def test_refusals_are_stored_whoever_they_say_they_are() -> None:
    desk = Desk(InvalidWriter)
    await desk.write(encode(RECORD), subject="telemetry.invalid.odd!.web-1")
    assert desk.shelf.kept == [RECORD]


async def test_retention_is_kept_at_the_start_and_by_the_hour(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shelf = Shelf()
    retainer = Retainer(gate=Gate(shelf))  # type: ignore[arg-type]  # same
    with trio.move_on_after(2.5 * 3600):
        async with run_actor(retainer):
            await trio.sleep_forever()
    assert len(shelf.retained) == 3
