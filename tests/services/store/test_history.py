"""Stored telemetry, read back from each store."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from services.store.history import CHUNK_EVENTS
from services.store.interface import Chunk, Store
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from tests.services.store.cast import (
    EPOCH,
    HOST,
    NOW_MS,
    batch,
    exec_event,
    exit_event,
    flood_event,
    listen_event,
    mixed,
    seed_event,
    single,
)
from tests.services.store.places import Place
from transport.messages import I63_MAX, Event, ExecV1, Host, Rejected, encode

LATER = "0000000000000001"


async def history(store: Store, since: int = 0, until: int = 1 << 52, **chosen: Any) -> list[Chunk]:
    found = store.history(since_unix_ms=since, until_unix_ms=until, **chosen)
    return [chunk async for chunk in found]


def events_of(chunks: Sequence[Chunk]) -> list[Event]:
    return [event for chunk in chunks for event in chunk.events]


async def test_an_empty_store_has_none(store: Store) -> None:
    assert await history(store) == []


async def test_events_come_back_as_they_were_published(store: Store) -> None:
    events: list[Event] = [seed_event(), *mixed(12), exec_event(argv=()), exit_event(time_ns=7)]
    events += [listen_event(), flood_event()]
    await store.add_telemetry([batch(events=events)])
    (chunk,) = await history(store)
    assert (chunk.tenant_id, chunk.agent_id, chunk.epoch) == ("acme", "agent-1", EPOCH)
    assert chunk.host == HOST
    assert chunk.events == events
    assert chunk.seqs == list(range(17))
    assert encode(chunk.events) == encode(events)


async def test_order_is_that_of_the_numbers_however_they_were_received(store: Store) -> None:
    numbers = list(range(200))
    random.Random(7).shuffle(numbers)
    for place, number in enumerate(numbers):
        message = batch(
            number, events=mixed(30), first_seq=30 * number, received_at_unix_ms=NOW_MS + place // 9
        )
        await store.add_telemetry([message])
    chunks = await history(store)
    assert [seq for chunk in chunks for seq in chunk.seqs] == list(range(6000))
    assert events_of(chunks) == mixed(30) * 200
    assert all(CHUNK_EVENTS <= len(chunk.events) < 1030 for chunk in chunks[:-1])


async def test_agents_come_one_after_the_other_and_their_lives_in_the_order_they_were_lived(
    store: Store,
) -> None:
    messages = [
        batch(n, agent_id=agent, epoch=epoch, received_at_unix_ms=NOW_MS + delay)
        for n in range(3)
        for agent in ("b", "a")
        for epoch, delay in ((EPOCH, 0), (LATER, 5))
    ]
    await store.add_telemetry([*messages, batch(0, tenant_id="aaa", agent_id="z")])
    chunks = await history(store)
    assert [(each.tenant_id, each.agent_id, each.epoch) for each in chunks] == [
        ("aaa", "z", EPOCH),
        ("acme", "a", EPOCH),
        ("acme", "a", LATER),
        ("acme", "b", EPOCH),
        ("acme", "b", LATER),
    ]
    assert [len(each.events) for each in chunks] == [10, 30, 30, 30, 30]
    chosen = await history(store, tenant_id="acme", agent_id="b")
    assert chosen == chunks[3:]


async def test_lives_that_were_received_in_the_same_moment_are_told_apart(store: Store) -> None:
    own, other = mixed(10), [exec_event(comm="other")] * 10
    await store.add_telemetry(
        [
            batch(0, events=own, received_at_unix_ms=NOW_MS),
            batch(0, events=other, received_at_unix_ms=NOW_MS, epoch=LATER),
            batch(0, events=other, received_at_unix_ms=NOW_MS, agent_id="agent-2"),
        ]
    )
    found = {(each.agent_id, each.epoch): each.events for each in await history(store)}
    assert found == {
        ("agent-1", EPOCH): own,
        ("agent-1", LATER): other,
        ("agent-2", EPOCH): other,
    }


async def test_a_range_is_that_of_reception(store: Store) -> None:
    await store.add_telemetry([batch(n) for n in range(5)])
    (chunk,) = await history(store, NOW_MS + 1, NOW_MS + 4)
    assert chunk.seqs == list(range(10, 40))


async def test_what_was_rejected_or_never_came_leaves_its_numbers_out(store: Store) -> None:
    gone = [Rejected(41, "bad"), Rejected(45, "bad")]
    await store.add_telemetry(
        [
            batch(0),
            batch(4, events=mixed(8), rejected=gone),
            batch(5, events=[], first_seq=50),
            batch(9, events=mixed(2), first_seq=I63_MAX - 1),
            batch(8, first_seq=0),  # what another batch had claimed
            single(ExecV1(1, 2, 3, "sh", "/bin/sh", ("sh",))),
        ]
    )
    (chunk,) = await history(store)
    kept = [seq for seq in range(40, 50) if seq not in {41, 45}]
    assert chunk.seqs == [*range(10), *kept, I63_MAX - 1, I63_MAX]


async def test_a_machine_that_is_called_another_begins_a_chunk(store: Store) -> None:
    renamed = Host(hostname="web-2", boot_id=HOST.boot_id, boot_unix_ns=HOST.boot_unix_ns)
    await store.add_telemetry([batch(0), batch(1), batch(2, host=renamed)])
    chunks = await history(store)
    assert [(each.host.hostname, len(each.events)) for each in chunks] == [
        ("web-1", 20),
        ("web-2", 10),
    ]


async def test_it_may_be_left_and_taken_up_beside_a_writer(store: Store) -> None:
    await store.add_telemetry([batch(n, events=mixed(500), first_seq=500 * n) for n in range(60)])
    async for chunk in store.history(since_unix_ms=0, until_unix_ms=1 << 52):
        assert len(chunk.events) == CHUNK_EVENTS
        await store.add_telemetry([batch(0, epoch=LATER)])
        break
    assert len(events_of(await history(store))) == 30_010


async def test_what_retention_removed_is_gone(store: Store, place: Place) -> None:
    day_ms = 86_400_000
    old = batch(0, received_at_unix_ms=NOW_MS - 40 * day_ms)
    await store.add_telemetry([old, batch(1)])
    await store.retain(NOW_MS)
    (chunk,) = await history(store)
    assert chunk.seqs == list(range(10, 20))


Text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


def _value(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field, by its name's type on the wire."""
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(0, 200)
    return st.lists(Text, max_size=4).map(tuple) if kind is tuple else Text


def _events(kind: type[Any]) -> st.SearchStrategy[Any]:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    own = {
        msgspec.inspect.BoolType: bool,
        msgspec.inspect.IntType: int,
        msgspec.inspect.StrType: str,
        msgspec.inspect.VarTupleType: tuple,
    }
    fields = {each.encode_name: _value(own[type(each.type)]) for each in info.fields}
    return st.builds(kind, **fields)


KINDS: tuple[type[Event], ...] = get_args(Event)
Lives = st.lists(
    st.lists(st.one_of([_events(kind) for kind in KINDS]), max_size=9), min_size=1, max_size=6
)


@settings(max_examples=50, deadline=None)
@given(batches=Lives, same=st.booleans())
def test_any_events_in_any_batches_come_back(batches: list[list[Event]], same: bool) -> None:  # noqa: FBT001 - drawn
    with tempfile.TemporaryDirectory() as folder:
        trio.run(_round_trip, Path(folder) / "store.db", batches, same)


async def _round_trip(path: Path, batches: list[list[Event]], same: bool) -> None:  # noqa: FBT001 - drawn
    store = SqliteStore(StoreSettings(url=f"sqlite:{path}"))
    await store.open()
    seq = 0
    for number, events in enumerate(batches):
        received = NOW_MS if same else NOW_MS + number
        message = batch(number, events=events, first_seq=seq, received_at_unix_ms=received)
        await store.add_telemetry([message])
        seq += len(events)
    chunks = await history(store)
    await store.close()
    expected = [event for events in batches for event in events]
    assert [repr(event) for event in events_of(chunks)] == [repr(event) for event in expected]
