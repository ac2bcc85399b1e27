"""The measures of the backend: broker, services and store as real processes on this machine."""

from __future__ import annotations

import datetime as dt
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from tests.bench.measures import Row
from tests.bench.rig import Rig, agent, cpu_secs, rss_mib
from tests.faults.backend import TABLES, Backend, backend
from tests.services.messages import a_batch
from tests.services.postgres import cluster
from transport import streams
from transport.crossing import open_loop
from transport.messages import EVENTS_MAX, CanonicalBatch, encode
from transport.session import Outgoing, Session
from transport.settings import BrokerSettings

_BATCHES = 600
RUNS = 3
_RAW, _ACCEPTED = "telemetry.raw.acme.web-1", "telemetry.accepted.acme.web-1"
_CONSUMERS = (streams.INGEST, streams.TELEMETRY_WRITER, streams.INVALID_WRITER)


def _raw() -> list[bytes]:
    return [
        encode(a_batch(number, first=EVENTS_MAX * number, count=EVENTS_MAX))
        for number in range(_BATCHES)
    ]


def _canonical() -> list[bytes]:
    made = []
    for number in range(_BATCHES):
        batch = a_batch(number, first=EVENTS_MAX * number, count=EVENTS_MAX)
        values = {name: getattr(batch, name) for name in batch.__struct_fields__}
        now_ms = time.time_ns() // 1_000_000
        made.append(encode(CanonicalBatch(**values, received_at_unix_ms=now_ms)))
    return made


async def publish(url: str, subject: str, payloads: list[bytes]) -> float:
    """Publish with the stream's acks; the seconds it took."""
    session = Session(BrokerSettings(), name="bench", url=url)
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.wait_connected()
        await streams.ensure(session, consumers=_CONSUMERS)
        outgoing = [
            Outgoing(subject, payload, f"{subject}-{number}")
            for number, payload in enumerate(payloads)
        ]
        begin = time.perf_counter()
        receipts = await session.publish_all(outgoing, within_secs=120)
        seconds = time.perf_counter() - begin
        assert all(receipt.stored for receipt in receipts)
        nursery.cancel_scope.cancel()
    return seconds


async def state_of(url: str, stream: str) -> dict[str, Any]:
    """What the broker says of a stream: `messages`, `first_ts`, `last_ts` …"""
    session = Session(BrokerSettings(), name="bench-watch", url=url)
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.wait_connected()
        raw = await session.request(f"$JS.API.STREAM.INFO.{stream}", b"", within_secs=5)
        nursery.cancel_scope.cancel()
    state: dict[str, Any] = msgspec.json.decode(raw)["state"]
    return state


@contextmanager
def fresh(**options: Any) -> Iterator[Backend]:
    with (
        tempfile.TemporaryDirectory(prefix="lavender-bench-") as folder,
        backend(Path(folder), **options) as running,
    ):
        running.broker.start()
        running.wait_for(lambda: "Server is ready" in running.broker.log())
        yield running


def _until(reached: Callable[[], bool], *, poll_secs: float) -> None:
    while not reached():
        time.sleep(poll_secs)


def _when(stamp: str) -> dt.datetime:
    """A time of the broker's, whose nanoseconds Python does not read."""
    return dt.datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamp))


def ingest(_rig: Rig) -> list[Row]:
    """Validate and republish what waits in the stream, one process."""
    payloads, speeds, ceilings = _raw(), [], []
    for _ in range(RUNS):
        # One agent sends what many would: its rate must not be what is measured.
        with fresh(ingest="agent_events_per_sec = 10000000") as running:
            ceilings.append(_BATCHES * EVENTS_MAX / trio.run(publish, running.url, _RAW, payloads))
            running.services["ingest"].start()
            state: dict[str, Any] = {"messages": 0}
            while state["messages"] < _BATCHES:
                time.sleep(1)
                state = trio.run(state_of, running.url, "TELEMETRY_CANONICAL")
            # The broker's own times of the first and the last message: asking disturbs nothing.
            seconds = (_when(state["last_ts"]) - _when(state["first_ts"])).total_seconds()
            speeds.append((_BATCHES - 1) * EVENTS_MAX / seconds)
    return [
        _speed(f"ingest, batches of {EVENTS_MAX}, one process", speeds, 60_000, "events/s"),
        _ceiling(ceilings),
    ]


def writer_sqlite(_rig: Rig) -> list[Row]:
    """The telemetry writer into SQLite, from a full stream."""
    return _writer("SQLite", 40_000, fresh)


def writer_postgres(_rig: Rig) -> list[Row]:
    """The telemetry writer into PostgreSQL with fsync on, from a full stream."""

    @contextmanager
    def with_postgres() -> Iterator[Backend]:
        with cluster(fsync=True) as server, fresh(cluster=server) as running:
            yield running

    return _writer("PostgreSQL", 25_000, with_postgres)


def _writer(name: str, bar: int, start: Callable[[], Any]) -> list[Row]:
    payloads, speeds, ceilings = _canonical(), [], []
    repeated = payloads[: _BATCHES // 10]
    for _ in range(RUNS):
        with start() as running:
            ceilings.append(
                _BATCHES * EVENTS_MAX / trio.run(publish, running.url, _ACCEPTED, payloads)
            )
            trio.run(publish, running.url, _ACCEPTED + "x", repeated)
            begin = time.perf_counter()
            running.services["telemetry_writer"].start()
            wanted = _BATCHES * EVENTS_MAX
            _until(
                lambda: sum(running.count(table) for table in TABLES) >= wanted,  # noqa: B023 - called at once
                poll_secs=0.1,
            )
            speeds.append(wanted / (time.perf_counter() - begin))
    return [
        _speed(f"telemetry writer into {name}, its start included", speeds, bar, "rows/s"),
        _ceiling(ceilings),
    ]


def _speed(name: str, speeds: list[float], bar: int, unit: str) -> Row:
    median = statistics.median(speeds)
    spread = f"{min(speeds):,.0f}-{max(speeds):,.0f} in {len(speeds)} runs"
    return Row(name, f"{median:,.0f} {unit}", f"≥ {bar:,}", median >= bar, spread)


def _ceiling(speeds: list[float]) -> Row:
    figure = f"{statistics.median(speeds):,.0f} events/s"
    return Row("  the same messages by a bare publisher, acked", figure, "-", None)


def latency(rig: Rig, *, rounds: int = 200) -> list[Row]:
    """Kernel event to row in the store, lightly loaded: 20 execs a second through everything."""
    with fresh() as running:
        for service in running.services.values():
            service.start()
        overrides = _published(running, rig)
        with agent(rig, output="none", **overrides) as watching:
            time.sleep(1)
            rig.run("execs", rounds / 20, 20, rig.program)
            time.sleep(1)
            watching.stop()
        query = "SELECT e.observed_at_unix_ms, b.stored_at_unix_ms FROM exec_events e"
        # The batch an event came in is the one whose run of numbers holds its own.
        query += " JOIN batches b ON b.agent_id = e.agent_id"
        query += " AND b.epoch = substr(e.event_id, 1, 16)"
        query += " AND CAST(substr(e.event_id, 18) AS bigint) BETWEEN b.first_seq AND b.last_seq"
        waits = sorted(int(stored) - int(seen) for seen, stored in running.rows(query))
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    note = f"{len(waits)} execs, worst {waits[-1]} ms"
    return [
        Row("kernel event to row in the store: p50", f"{p50} ms", "≤ 150", p50 <= 150),
        Row("kernel event to row in the store: p99", f"{p99} ms", "≤ 500", p99 <= 500, note),
    ]


def _published(running: Backend, rig: Rig) -> dict[str, str]:
    rig.folder.chmod(0o711)  # the agent, root no more, must get through to its spool
    return {
        "LAVENDER_PUBLISH__ENABLED": "true",
        "LAVENDER_AGENT__NATS_URL": running.url,
        "LAVENDER_PUBLISH__SPOOL": str(rig.folder / "spool"),
    }


def publishing(rig: Rig, *, seconds: float = 5) -> list[Row]:
    """What publishing adds to the agent's CPU, for each event of an open flood at 10,000/s."""
    everything = {
        "LAVENDER_FILTERS__OPEN_EVENTS": "all",
        "LAVENDER_AGENT__OPEN_REPEAT_SECS": "0",
    }
    added = []
    with fresh() as running:
        for service in running.services.values():
            service.start()
        for _ in range(RUNS):
            costs = []
            for overrides in ({}, _published(running, rig)):
                with agent(rig, output="none", **everything, **overrides) as watching:
                    before = watching.cpu_secs()
                    events, _cpu = rig.run("paced", seconds, 10_000, rig.file)
                    time.sleep(0.5)
                    costs.append((watching.cpu_secs() - before) / events * 1e6)
                    watching.stop()
            added.append(costs[1] - costs[0])
    median = statistics.median(added)
    spread = f"{min(added):.1f}-{max(added):.1f} in {len(added)} runs"
    figure = f"{median:.1f} µs/event"
    return [Row("agent: publishing adds, spool included", figure, "≤ 5", median <= 5, spread)]


def endurance(_rig: Rig, *, seconds: int = 600, rate: int = 10_000) -> list[Row]:
    """Ten minutes at a steady rate, end to end, with the memory of each process."""
    total = seconds * rate
    with fresh() as running:
        for service in running.services.values():
            service.start()
        emitter = running.emitter(total, rate=rate)
        emitter.start()
        watched = {"emitter": emitter, **running.services}
        sizes: dict[str, list[float]] = {name: [] for name in watched}
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(seconds / 20)
            for name, each in watched.items():
                if each.running.poll() is None:
                    sizes[name].append(rss_mib(each.running.pid))
        cpu = {name: cpu_secs(each.running.pid) for name, each in running.services.items()}
        emitter.finish(within_secs=seconds)
        account = running.settle(total)
    rows = [
        Row(
            f"{seconds} s at {rate:,} events/s, end to end: missing",
            f"{account['missing']}",
            "0",
            account["missing"] == 0 and account["stored"] == total,
            f"stored {account['stored']:,}",
        )
    ]
    for name, found in sizes.items():
        # The first quarter fills caches; what grows afterwards would grow for ever.
        half = found[len(found) // 4 :]
        growth = half[-1] - half[0]
        note = f"{found[0]:.0f} to {found[-1]:.0f} MiB, CPU {cpu.get(name, 0):.0f} s"
        rows.append(Row(f"  {name}: grows by", f"{growth:.1f} MiB", "≤ 8", growth <= 8, note))
    return rows
