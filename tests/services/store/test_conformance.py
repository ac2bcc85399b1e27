"""What `Store` promises, held against each store with its real database."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors.detection.events import ExecEvent
from services.store.interface import (
    Added,
    Store,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Telemetry,
)
from services.store.tables import EVENT_TABLES
from tests.services.store.cast import (
    BOOT_NS,
    EPOCH,
    NOW_MS,
    alert,
    batch,
    connect_event,
    exec_event,
    exit_event,
    fork_event,
    invalid,
    mixed,
    open_event,
    seed_event,
    single,
)
from tests.services.store.places import Place
from transport.messages import (
    I63_MAX,
    ConnectV1,
    Counters,
    ExecV1,
    ExitV1,
    Gap,
    HeartbeatV1,
    Host,
    OpenV1,
    Rejected,
    encode,
)

ROOT = Path(__file__).resolve().parents[3]
ALL_EVENTS = " UNION ALL ".join(
    f"SELECT event_id FROM {table.name}"  # noqa: S608 - a name of ours
    for table in EVENT_TABLES
)


def event_ids(place: Place) -> list[str]:
    """Ids of all event rows, as often as they are there."""
    return sorted(row["event_id"] for row in place.rows(ALL_EVENTS))


def ids(*seqs: int, epoch: str = EPOCH) -> list[str]:
    return sorted(f"{epoch}-{seq}" for seq in seqs)


@pytest.mark.parametrize(
    ("table", "event"),
    [
        ("exec_events", exec_event()),
        ("open_events", open_event(origin="/mnt/x", error=13, resolved=False)),
        ("connect_events", connect_event()),
        ("exit_events", exit_event(exit_code=3, signal=0)),
        ("fork_events", fork_event()),
        ("seed_events", seed_event()),
    ],
)
async def test_every_field_of_an_event_is_stored(
    store: Store, place: Place, table: str, event: Any
) -> None:
    assert await store.add_telemetry([batch(events=[event])]) == Added(messages=1, rows=1)
    (row,) = place.rows(f"SELECT * FROM {table}")  # noqa: S608 - a name of ours
    fields = msgspec.json.decode(msgspec.json.encode(event))
    fields.pop("type")
    observed = (BOOT_NS + fields["time_ns"]) // 1_000_000
    if "user" in fields:
        fields["user_name"] = fields.pop("user")
    seen = datetime.fromtimestamp(observed // 1000, UTC).isoformat()[:19]
    assert row.pop("observed_at")[:19] == seen
    assert row.pop("received_at")[:19] == "2025-11-24T16:00:00"
    assert row == {
        **fields,
        "tenant_id": "acme",
        "agent_id": "agent-1",
        "hostname": "web-1",
        "event_id": f"{EPOCH}-0",
        "seq": 0,
        "observed_at_unix_ms": observed,
        "received_at_unix_ms": NOW_MS,
    }


async def test_an_event_without_a_boot_time_was_observed_when_its_batch_was(
    store: Store, place: Place
) -> None:
    await store.add_telemetry([batch(events=[exit_event()], host=Host(hostname="h"))])
    (row,) = place.rows("SELECT observed_at_unix_ms FROM exit_events")
    assert row["observed_at_unix_ms"] == NOW_MS - 40


async def test_a_message_is_stored_once_however_often_it_comes(store: Store, place: Place) -> None:
    first = [batch(0), batch(1), batch(0)]
    assert await store.add_telemetry(first) == Added(messages=2, rows=20, duplicates=1)
    assert await store.add_telemetry(first) == Added(duplicates=3)
    # Ingest took it up again much later, so that its rows would lie on another day.
    later = batch(1, received_at_unix_ms=NOW_MS + 3 * 86_400_000)
    assert await store.add_telemetry([later, batch(2)]) == Added(messages=1, rows=10, duplicates=1)
    assert event_ids(place) == ids(*range(30))


async def test_the_same_id_of_another_agent_or_tenant_is_another_message(
    store: Store, place: Place
) -> None:
    added = await store.add_telemetry(
        [batch(0), batch(0, agent_id="agent-2"), batch(0, tenant_id="other")]
    )
    assert added == Added(messages=3, rows=30)


async def test_nothing_at_all_can_be_added(store: Store) -> None:
    assert await store.add_telemetry([]) == Added()
    assert await store.add_alerts([]) == Added()
    assert await store.add_invalid([]) == Added()


async def test_stores_that_add_the_same_at_the_same_time_add_it_once(
    store: Store, place: Place, loop: None
) -> None:
    others = [place.store() for _ in range(3)]
    messages = [batch(number) for number in range(40)]
    added = Added()

    async def add(each: Store, chosen: list[Any]) -> None:
        nonlocal added
        for begin in range(0, len(chosen), 8):
            part = chosen[begin : begin + 8]
            while True:
                try:
                    new = await each.add_telemetry(part)
                except StoreUnavailable:
                    continue
                break
            added = Added(added.messages + new.messages, added.rows + new.rows)

    async with trio.open_nursery() as nursery:
        for other in others:
            await other.open()
        for each, step in zip([store, *others], (1, -1, 1, -1), strict=True):
            nursery.start_soon(add, each, messages[::step])
    for other in others:
        await other.close()
    assert added == Added(messages=40, rows=400)
    assert event_ids(place) == ids(*range(400))


_WRITER = """
import sys, msgspec, trio
from services.store import open_store
from services.store.interface import StoreUnavailable
from services.store.settings import StoreSettings
from transport import crossing
from transport.messages import CanonicalBatch

async def main(url, lines):
    async with crossing.open_loop():
        store = open_store(StoreSettings(url=url))
        await store.open()
        for line in lines:
            await store.add_telemetry([msgspec.json.decode(line, type=CanonicalBatch)])
        await store.close()

trio.run(main, sys.argv[1], sys.stdin.buffer.read().splitlines())
"""


async def test_processes_may_open_an_empty_place_and_add_the_same_at_the_same_time(
    place: Place,
) -> None:
    text = b"\n".join(encode(batch(number)) for number in range(30))
    command = [sys.executable, "-c", _WRITER, place.settings.url]
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(partial(trio.run_process, command, stdin=text, cwd=ROOT, check=True))
    assert event_ids(place) == ids(*range(300))


async def test_a_batch_that_claims_anothers_numbers_is_not_stored(
    store: Store, place: Place
) -> None:
    await store.add_telemetry([batch(0)])
    thief = batch(7, first_seq=0, counters=Counters(spooled=99), rejected=[Rejected(10, "bad")])
    within = [batch(1), batch(8, first_seq=10)]
    assert await store.add_telemetry([thief, *within]) == Added(messages=3, rows=10)
    assert await store.add_telemetry([thief, *within]) == Added(duplicates=3)
    assert event_ids(place) == ids(*range(20))
    (facts,) = (await store.ledger(since_unix_ms=0, until_unix_ms=I63_MAX)).epochs
    assert (facts.batches, facts.accepted, facts.stored) == (4, 40, 20)
    assert facts.rejected == {"overlap": 20}
    assert (facts.first_seq, facts.next_seq, facts.counters.spooled) == (0, 20, 20)


async def test_messages_of_version_1_are_stored(store: Store, place: Place) -> None:
    messages: list[Telemetry] = [
        single(ExecV1(1, 2, 3, "sh", "/bin/sh", ("sh", "-c", "id")), event_id="a"),
        single(OpenV1(1, "sh", "/etc/shadow"), event_id="b"),
        single(ConnectV1(1, 0, "sh", "::1", 80, 10), event_id="c"),
        single(ExitV1(1), event_id="d"),
        single(HeartbeatV1("ok"), event_id="e"),
    ]
    assert await store.add_telemetry(messages) == Added(messages=5, rows=4)
    assert await store.add_telemetry(messages[:2]) == Added(duplicates=2)
    assert event_ids(place) == ["a", "b", "c", "d"]
    (row,) = place.rows("SELECT argv, start_ns, exe, observed_at_unix_ms FROM exec_events")
    assert row == {
        "argv": ["sh", "-c", "id"],
        "start_ns": None,
        "exe": None,
        "observed_at_unix_ms": NOW_MS - 40,
    }
    (facts,) = (await store.ledger(since_unix_ms=0, until_unix_ms=I63_MAX)).epochs
    assert (facts.epoch, facts.batches, facts.stored, facts.accepted) == ("", 5, 4, 4)
    assert (facts.first_seq, facts.next_seq, facts.missing) == (0, 0, [])
    assert (facts.counters, facts.counters_before) == (Counters(), None)


def _odd_exec() -> ExecEvent:
    return exec_event(
        time_ns=I63_MAX,
        pid=(1 << 31) - 1,
        start_ns=I63_MAX,
        uid=(1 << 32) - 1,
        cgroup_id=I63_MAX,
        comm="",
        filename="/" + "x" * 32_767,
        cwd="\u202e\U0001f600'\";--\\x\t\n",
        argv=tuple("ä" * 200 for _ in range(256)),
        user="",
    )


async def test_odd_values_come_back_as_they_were(store: Store, place: Place) -> None:
    event = _odd_exec()
    host = Host(hostname="", boot_id="", boot_unix_ns=I63_MAX)
    odd = batch(
        events=[event],
        first_seq=I63_MAX,
        host=host,
        batch_id=f"{EPOCH}-{10**18 - 1}",
        received_at_unix_ms=1 << 53,
        observed_at_unix_ms=1 << 53,
        counters=Counters(spooled=I63_MAX, read=I63_MAX),
    )
    v1 = single(OpenV1(0, "", ""), event_id="x" * 128, received_at_unix_ms=1 << 53)
    assert (await store.add_telemetry([odd, v1])).rows == 2
    (row,) = place.rows("SELECT * FROM exec_events")
    for name in ("pid", "start_ns", "uid", "cgroup_id", "comm", "filename", "cwd"):
        assert row[name] == getattr(event, name)
    assert row["argv"] == list(event.argv)
    assert row["event_id"] == f"{EPOCH}-{I63_MAX}"
    assert row["observed_at_unix_ms"] == 2 * I63_MAX // 1_000_000
    found = await store.ledger(since_unix_ms=0, until_unix_ms=I63_MAX, count_rows=True)
    facts = found.epochs[1]
    assert (facts.first_seq, facts.next_seq) == (I63_MAX, I63_MAX + 1)
    assert facts.counters.read == I63_MAX
    assert found.rows == {("acme", "agent-1"): 2}


async def test_what_cannot_be_stored_is_refused_and_the_rest_can_follow(
    store: Store, place: Place
) -> None:
    bad = batch(1, events=[exec_event(filename="/tmp/\ud800")])
    with pytest.raises(StoreRefused):
        await store.add_telemetry([batch(0), bad])
    assert event_ids(place) == []
    with pytest.raises(StoreRefused):
        await store.add_telemetry([bad])
    assert await store.add_telemetry([batch(0)]) == Added(messages=1, rows=10)
    with pytest.raises(StoreRefused):
        await store.add_alerts([alert(detail="\ud800")])
    assert await store.add_alerts([alert()]) == Added(messages=1)


@pytest.mark.parametrize(
    "forged",
    [
        batch(last_seq=3),
        batch(last_seq=I63_MAX),
        batch(rejected=[Rejected(3, "a"), Rejected(3, "b")]),
        batch(rejected=[Rejected(77, "a")]),
    ],
)
async def test_a_batch_whose_numbers_do_not_fit_its_events_is_refused(
    store: Store, place: Place, forged: Any
) -> None:
    with pytest.raises(StoreRefused, match="do not make up"):
        await store.add_telemetry([forged])
    assert place.rows("SELECT batch_id FROM batches") == []


async def test_rejected_events_leave_their_numbers_to_nobody(store: Store, place: Place) -> None:
    message = batch(events=mixed(3), rejected=[Rejected(0, "bad pid"), Rejected(3, "bad pid")])
    await store.add_telemetry([message])
    assert event_ids(place) == ids(1, 2, 4)
    (facts,) = (await store.ledger(since_unix_ms=0, until_unix_ms=I63_MAX)).epochs
    assert facts.rejected == {"bad pid": 2}
    assert (facts.stored, facts.next_seq, facts.missing) == (3, 5, [])


async def test_an_alert_is_stored_once_and_keeps_its_status(store: Store, place: Place) -> None:
    gap = Gap(NOW_MS - 100, NOW_MS, "lost_in_kernel", 3)
    assert await store.add_alerts([alert(0), alert(1, evidence=[gap]), alert(0)]) == Added(
        messages=2, duplicates=1
    )
    place.change("UPDATE alerts SET status = 'resolved'")
    assert await store.add_alerts([alert(0, detail="again")]) == Added(duplicates=1)
    rows = place.rows("SELECT * FROM alerts ORDER BY event_id")
    assert [(row["status"], row["detail"]) for row in rows] == [("resolved", "curl")] * 2
    assert [row["evidence"] for row in rows] == ["complete", [msgspec.to_builtins(gap)]]
    assert rows[0]["techniques"] == ["T1059", "T1071"]
    assert rows[0]["received_at"][:19] == "2025-11-24T16:00:00"


async def test_an_alert_has_one_of_four_statuses(store: Store, place: Place) -> None:
    await store.add_alerts([alert()])
    assert place.rows("SELECT status FROM alerts") == [{"status": "open"}]
    with pytest.raises(Exception, match=r"(?i)constraint"):
        place.change("UPDATE alerts SET status = 'ignored'")


async def test_what_was_refused_is_stored_whatever_it_holds(store: Store, place: Place) -> None:
    hostile = invalid(0, payload="a\x00b\ud800", detail="\x00", reason="mal\x00")
    assert await store.add_invalid([hostile, invalid(1), invalid(1)]) == Added(
        messages=2, duplicates=1
    )
    assert await store.add_invalid([hostile]) == Added(duplicates=1)
    row = place.rows("SELECT payload, detail FROM invalid_messages ORDER BY invalid_id")[0]
    assert row == {"payload": "a\\x00b\\ud800", "detail": "\\x00"}


async def test_a_store_that_is_away_says_so_and_is_back_when_it_is(
    store: Store, place: Place
) -> None:
    await store.add_telemetry([batch(0)])
    with place.away():
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.add_telemetry([batch(1)])
        with pytest.raises(StoreUnavailable):
            await store.add_alerts([alert()])
    await eventually_add(store, batch(1))
    assert event_ids(place) == ids(*range(20))


async def eventually_add(store: Store, message: Telemetry) -> None:
    """Add a message as a writer does: again and again, until the store takes it."""
    with trio.fail_after(20):
        while True:
            try:
                await store.add_telemetry([message])
            except StoreUnavailable:
                await trio.sleep(0.05)
            else:
                return


async def test_a_store_that_is_away_cannot_be_opened_yet(place: Place, loop: None) -> None:
    first, second = place.store(), place.store()
    await first.open()
    await first.close()
    with place.away(), pytest.raises(StoreUnavailable):
        await second.open()
    await second.open()
    await second.close()
    await second.close()


async def test_cancelled_calls_store_all_or_nothing(store: Store, place: Place) -> None:
    message = batch(0, events=mixed(500))
    for delay in (0, 0.001, 0.003, 0.006, 0.012):
        with trio.move_on_after(delay):
            await store.add_telemetry([message])
        assert len(event_ids(place)) in {0, 500}
    await eventually_add(store, message)
    assert event_ids(place) == ids(*range(500))


async def test_stores_may_open_an_empty_place_at_the_same_time(place: Place, loop: None) -> None:
    stores = [place.store() for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for each in stores:
            nursery.start_soon(each.open)
    versions = [row["version"] for row in place.rows("SELECT version FROM schema_version")]
    assert versions == [1, 2, 3]
    for number, each in enumerate(stores):
        await each.add_telemetry([batch(number)])
        await each.close()
    assert len(event_ids(place)) == 40


async def test_asking_for_the_version_changes_nothing(place: Place, loop: None) -> None:
    place.change("CREATE TABLE theirs (one integer)")
    store = place.store()
    assert await store.schema_version() == 0
    await store.close()
    assert place.columns("schema_version") == {}
    assert place.columns("alerts") == {}
    await store.open()
    assert await store.schema_version() == 3
    await store.close()


async def test_a_newer_schema_is_left_alone(store: Store, place: Place) -> None:
    place.change("INSERT INTO schema_version VALUES (99, '9.9', 0)")
    with pytest.raises(StoreError, match=r"version 99, newer than version 3") as caught:
        await place.store().open()
    assert type(caught.value) is StoreError


async def test_what_is_too_old_is_removed(store: Store, place: Place) -> None:
    day_ms = 86_400_000
    old, new = NOW_MS - 31 * day_ms, NOW_MS - 29 * day_ms
    counters = Counters(gaps=[Gap(1, 2, "not_watching")])
    for number, received in enumerate((old, new, NOW_MS)):
        message = batch(number, received_at_unix_ms=received, counters=counters)
        await store.add_telemetry([message])
        await store.add_invalid([invalid(number, received_at_unix_ms=received)])
        await store.add_alerts([alert(number, received_at_unix_ms=received)])
    await store.add_alerts([alert(9, received_at_unix_ms=NOW_MS - 366 * day_ms)])
    await store.retain(NOW_MS)
    await store.retain(NOW_MS)
    assert event_ids(place) == ids(*range(10, 30))
    for table, kept in (("batches", 2), ("agent_gaps", 2), ("invalid_messages", 2), ("alerts", 3)):
        (count,) = place.rows(f"SELECT count(*) AS n FROM {table}")  # noqa: S608 - ours
        assert (table, count["n"]) == (table, kept)
    assert await store.add_telemetry([batch(3)]) == Added(messages=1, rows=10)
