"""The measures of the stores: rows a second, each call a transaction that is on the disk."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from services.store import open_store
from services.store.interface import Store
from services.store.settings import StoreSettings
from tests.bench.commands import executions
from tests.bench.measures import Row
from tests.bench.rig import Rig
from tests.services.postgres import cluster
from tests.services.store.cast import batch, mixed
from transport import crossing
from transport.messages import CanonicalBatch, encode

_EVENTS = 500
_MESSAGES_PER_CALL = 10
_CALLS = 30
_RUNS = 3
_AGENTS = 20
_MOMENTS = 150
_EVENTS_OF_A_MOMENT = 50


def sqlite_rows(rig: Rig) -> list[Row]:
    """Rows a second into a fresh SQLite file."""
    paths = iter(range(_RUNS))
    return _measure("SQLite", 40_000, lambda: f"sqlite:{rig.folder}/bench-{next(paths)}.db")


def postgres_rows(rig: Rig) -> list[Row]:
    """Rows a second into a fresh database of a private PostgreSQL, fsync on."""
    with cluster(fsync=True) as server:
        return _measure("PostgreSQL", 25_000, server.new_database)


def _measure(name: str, bar: int, new_url: Callable[[], str]) -> list[Row]:
    speeds = [trio.run(_fill, StoreSettings(url=new_url())) for _ in range(_RUNS)]
    median = statistics.median(speeds)
    spread = f"{min(speeds):,.0f}-{max(speeds):,.0f} in {_RUNS} runs"
    return [
        Row(
            f"{name}: batches of {_EVENTS}, {_MESSAGES_PER_CALL} a call, duplicates rejected",
            f"{median:,.0f} rows/s",
            f"≥ {bar:,}",
            median >= bar,
            spread,
        )
    ]


async def _fill(settings: StoreSettings) -> float:
    """Rows a second of one store, a tenth of the messages coming twice."""
    async with crossing.open_loop():
        store = open_store(settings)
        await store.open()
        try:
            return await _calls(store)
        finally:
            await store.close()


async def _calls(store: Store) -> float:
    epoch = os.urandom(8).hex()
    events, now_ms = mixed(_EVENTS), time.time_ns() // 1_000_000
    wire = msgspec.json.Decoder(CanonicalBatch)
    rows, seconds = 0, 0.0
    again: list[CanonicalBatch] = []
    for call in range(_CALLS + 2):
        # Through the wire, so that no two events share a text, as they would not in a writer.
        messages = [
            wire.decode(
                encode(
                    batch(
                        number,
                        epoch=epoch,
                        events=events,
                        first_seq=number * _EVENTS,
                        received_at_unix_ms=now_ms,
                    )
                )
            )
            for number in range(call * _MESSAGES_PER_CALL, (call + 1) * _MESSAGES_PER_CALL)
        ]
        begin = time.perf_counter()
        added = await store.add_telemetry([*messages, *again])
        spent = time.perf_counter() - begin
        again = messages[:1]
        if call >= 2:  # the first calls warm up
            rows, seconds = rows + added.rows, seconds + spent
    if rows != _CALLS * _MESSAGES_PER_CALL * _EVENTS:
        raise AssertionError(f"{rows} rows were stored")
    return rows / seconds


def sizes(rig: Rig) -> list[Row]:
    """Bytes an event takes: in a message, as a row of each store with its indexes."""
    count = (_CALLS + 2) * _MESSAGES_PER_CALL * _EVENTS
    message, execs = (
        len(encode(batch(0, events=events))) / _EVENTS
        for events in (mixed(_EVENTS), executions(_EVENTS))
    )
    path = rig.folder / "sizes.db"
    trio.run(_fill, StoreSettings(url=f"sqlite:{path}"))
    with cluster(fsync=True) as server:
        url = server.new_database()
        trio.run(_fill, StoreSettings(url=url))
        asked = f"SELECT pg_database_size('{url.rpartition('/')[2]}')"
        empty = "SELECT pg_database_size('template1')"
        in_postgres = int(server.sql(asked)[0]) - int(server.sql(empty)[0])
    found = {
        "in a message": message,
        "that is an execution, in a message": execs,
        "in SQLite": path.stat().st_size / count,
        "in PostgreSQL": in_postgres / count,
    }
    return [
        Row(f"an event {where}", f"{size:.0f} bytes", "-", None) for where, size in found.items()
    ]


def sqlite_history(rig: Rig) -> list[Row]:
    """Events a second read back from a SQLite file."""
    paths = iter(range(_RUNS))
    return _history("SQLite", 150_000, lambda: f"sqlite:{rig.folder}/history-{next(paths)}.db")


def postgres_history(rig: Rig) -> list[Row]:
    """The same from a private PostgreSQL."""
    with cluster(fsync=True) as server:
        return _history("PostgreSQL", 50_000, server.new_database)


def _history(name: str, bar: int, new_url: Callable[[], str]) -> list[Row]:
    speeds = [trio.run(_fill_and_read, StoreSettings(url=new_url())) for _ in range(_RUNS)]
    median = statistics.median(speeds)
    return [
        Row(
            f"{name}: history of {_AGENTS} agents, {_EVENTS_OF_A_MOMENT} events a batch",
            f"{median:,.0f} events/s",
            f"≥ {bar:,}",
            median >= bar,
            f"{min(speeds):,.0f}-{max(speeds):,.0f} in {_RUNS} runs",
        )
    ]


async def fill_history(store: Store, *, moments: int = _MOMENTS) -> int:
    """Store small batches of many agents in turn; the time at which they begin, in Unix ms."""
    events, now_ms = mixed(_EVENTS_OF_A_MOMENT), time.time_ns() // 1_000_000
    for moment in range(moments):
        own: dict[str, Any] = {"received_at_unix_ms": now_ms + 50 * moment, "events": events}
        first = moment * _EVENTS_OF_A_MOMENT
        await store.add_telemetry(
            [batch(moment, agent_id=f"agent-{n}", first_seq=first, **own) for n in range(_AGENTS)]
        )
    return now_ms


async def _fill_and_read(settings: StoreSettings) -> float:
    """Events a second of one store, whose agents' small batches came in turn."""
    async with crossing.open_loop():
        store = open_store(settings)
        await store.open()
        try:
            now_ms = await fill_history(store)
            begin, count = time.perf_counter(), 0
            async for chunk in store.history(since_unix_ms=0, until_unix_ms=now_ms * 2):
                count += len(chunk.events)
            seconds = time.perf_counter() - begin
        finally:
            await store.close()
    if count != _AGENTS * _MOMENTS * _EVENTS_OF_A_MOMENT:
        raise AssertionError(f"{count} events were read")
    return count / seconds
