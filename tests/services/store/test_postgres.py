"""PostgreSQL's own troubles: killed, frozen, refusing; and its partitions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from services.store import open_store
from services.store.interface import Added, StoreError, StoreRefused, StoreUnavailable
from services.store.postgres import PostgresStore
from services.store.settings import StoreSettings
from services.store.tables import EVENT_TABLES
from tests.services.postgres import PASSWORD, Cluster, cluster, free_port
from tests.services.store.cast import NOW_MS, alert, batch, exec_event, mixed
from tests.services.store.places import PostgresPlace
from transport import crossing
from transport.messages import CanonicalBatch

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def victim() -> Iterator[Cluster]:
    """A server that tests may kill."""
    with cluster() as running:
        yield running


@pytest.fixture
def place(server: Cluster) -> PostgresPlace:
    return PostgresPlace(server)


@pytest.fixture
async def store(place: PostgresPlace, loop: None) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(place.settings, call_secs=10)
    await opened.open()
    yield opened
    await opened.close()


def stored(place: PostgresPlace) -> tuple[int, int]:
    """Event rows, and how many different ids they have."""
    union = " UNION ALL ".join(f"SELECT event_id FROM {table.name}" for table in EVENT_TABLES)  # noqa: S608 - ours
    (row,) = place.rows(f"SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM ({union}) e")  # noqa: S608 - ours
    return row["n"], row["ids"]


def test_the_settings_choose_the_store() -> None:
    assert isinstance(open_store(StoreSettings(url="postgresql://db/lavender")), PostgresStore)


class Progress:
    """What the writers of a test have done so far."""

    def __init__(self) -> None:
        self.calls = 0
        self.failures = 0
        self.moved = trio.Event()

    async def reach(self, calls: int) -> None:
        while self.calls < calls:
            await self.moved.wait()

    def add(self, *, failed: bool) -> None:
        self.failures += failed
        self.calls += not failed
        self.moved.set()
        self.moved = trio.Event()


async def write_all(
    store: PostgresStore, calls: list[list[CanonicalBatch]], progress: Progress
) -> None:
    """Store everything as a writer does: what failed, again."""
    for messages in calls:
        failed = True
        while failed:
            try:
                await store.add_telemetry(messages)
                failed = False
            except StoreUnavailable:
                await trio.sleep(0.02)
            progress.add(failed=failed)


async def test_a_server_killed_in_the_middle_of_calls_has_everything_once(
    victim: Cluster, loop: None
) -> None:
    place = PostgresPlace(victim)
    stores = [PostgresStore(place.settings, call_secs=10) for _ in range(2)]
    for each in stores:
        await each.open()
    messages = [batch(n, events=mixed(500), first_seq=500 * n) for n in range(60)]
    progress = Progress()
    async with trio.open_nursery() as nursery:
        for offset, each in zip((0, 5), stores, strict=True):
            calls = [messages[begin : begin + 10] for begin in range(offset, 60, 10)]
            nursery.start_soon(write_all, each, calls, progress)
        for reached in (2, 5):
            await progress.reach(reached)
            victim.kill()
            victim.start(wait=False)
            await trio.to_thread.run_sync(victim.wait_ready)
    for each in stores:
        await each.close()
    assert progress.failures > 0
    assert stored(place) == (30_000, 30_000)


async def test_a_backend_that_is_ended_costs_one_call(
    store: PostgresStore, place: PostgresPlace
) -> None:
    await store.add_telemetry([batch(0)])
    place.change(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608 - ours
        f" WHERE application_name = 'lavender' AND datname = '{place.database}'"
    )
    with pytest.raises(StoreUnavailable):
        await store.add_telemetry([batch(1)])
    assert await store.add_telemetry([batch(1)]) == Added(messages=1, rows=10)


async def test_a_server_that_does_not_answer_is_given_up(victim: Cluster, loop: None) -> None:
    place = PostgresPlace(victim)
    store = PostgresStore(place.settings)
    await store.open()
    store._call_secs = 0.3
    victim.pause()
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.add_telemetry([batch(0)])
    finally:
        victim.resume()
    patient = PostgresStore(place.settings)
    await patient.open()
    await patient.add_telemetry([batch(0)])
    await patient.close()
    await store.close()
    assert stored(place) == (10, 10)


async def test_a_writer_that_holds_the_lock_is_not_waited_for_for_ever(
    store: PostgresStore, place: PostgresPlace
) -> None:
    impatient = PostgresStore(place.settings, call_secs=0.3)
    await store.add_telemetry([batch(0)])
    connection = store._connection
    await crossing.call(connection.execute, "BEGIN; LOCK TABLE batches")
    with pytest.raises(StoreUnavailable):
        await impatient.add_telemetry([batch(1)])
    await crossing.call(connection.execute, "ROLLBACK")
    await store.add_telemetry([batch(1)])
    await impatient.close()


async def test_a_character_that_cannot_be_stored_is_refused(store: PostgresStore) -> None:
    with pytest.raises(StoreRefused, match="0x00"):
        await store.add_telemetry([batch(0, events=[exec_event(comm="a\0b")])])
    with pytest.raises(StoreRefused):
        await store.add_alerts([alert(detail="a\0b")])
    assert await store.add_telemetry([batch(0)]) == Added(messages=1, rows=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
    ],
)
async def test_a_wrong_address_is_one_clear_line(
    server: Cluster, loop: None, change: dict[str, str], message: str
) -> None:
    store = PostgresStore(StoreSettings(url=server.url(**change)))
    with pytest.raises(StoreError, match=message) as caught:
        await store.open()
    assert type(caught.value) is StoreError
    text = str(caught.value)
    assert f"127.0.0.1:{server.port}" in text
    assert PASSWORD not in text
    assert "wrong" not in text
    assert "\n" not in text
    assert PASSWORD not in repr(StoreSettings(url=server.url()))


async def test_an_address_that_is_none_is_an_error_and_not_quoted(loop: None) -> None:
    store = PostgresStore(StoreSettings(url="postgresql://u:secret@host:port/db"))
    with pytest.raises(StoreError) as caught:
        await store.open()
    assert type(caught.value) is StoreError
    assert "secret" not in str(caught.value)


async def test_nobody_listening_is_a_store_that_is_away(loop: None) -> None:
    store = PostgresStore(StoreSettings(url=f"postgresql://u:p@127.0.0.1:{free_port()}/db"))
    with pytest.raises(StoreUnavailable):
        await store.open()


def partitions(place: PostgresPlace, table: str = "exec_events") -> list[str]:
    rows = place.rows(
        "SELECT c.relname AS name"  # noqa: S608 - ours
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        f" WHERE i.inhparent = '{table}'::regclass ORDER BY 1"
    )
    return [row["name"] for row in rows]


async def test_days_around_today_have_partitions(
    store: PostgresStore, place: PostgresPlace
) -> None:
    today = time.strftime("exec_events_%Y%m%d", time.gmtime())
    found = partitions(place)
    assert len(found) == 5
    assert today in found
    assert found[-1] == "exec_events_default"
    await store.add_telemetry([batch(0, received_at_unix_ms=time.time_ns() // 1_000_000)])
    assert place.rows("SELECT count(*) AS n FROM exec_events_default") == [{"n": 0}]


async def test_retention_drops_whole_days_and_makes_those_to_come(
    store: PostgresStore, place: PostgresPlace
) -> None:
    start = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    for number in range(3):
        received = start + number * DAY_MS
        await store.add_telemetry([batch(number, received_at_unix_ms=received)])
    await store.add_telemetry([batch(9, received_at_unix_ms=1)])
    await store.retain(start + 32 * DAY_MS + 5)
    assert stored(place) == (10, 10)
    names = partitions(place)
    # Left: the day that is just kept, four around the new today, and the default one.
    assert len(names) == 6
    day = time.strftime("exec_events_%Y%m%d", time.gmtime(start / 1000 + 2 * 86_400))
    assert names[0] == day


async def test_a_day_whose_rows_are_in_the_default_partition_stays_there(
    store: PostgresStore, place: PostgresPlace
) -> None:
    await store.add_telemetry([batch(0)])  # a day long gone
    await store.retain(NOW_MS)
    assert stored(place) == (10, 10)
    assert "exec_events_20251123" in partitions(place)
    assert "exec_events_20251124" not in partitions(place)
    await store.add_telemetry([batch(1)])
    assert stored(place) == (20, 20)
