"""What the store in PostgreSQL does over a connection.

The functions are asyncio's and await asyncpg alone: `postgres` calls them through
`transport.crossing`. Whatever is raised, the connection is given up, and the server rolls back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from services.store import migrations, partitions, tables, timescale
from services.store.alerts import alert_key, settle
from services.store.interface import Added, LedgerFacts, Telemetry
from services.store.ledger import facts_of, queries, row_queries
from services.store.lines import Line, eviction_rows, gap_rows, lines_of
from services.store.retention import day_of, event_cutoff, moment, plain_cutoffs
from services.store.rows import Row, event_rows
from services.store.settings import StoreSettings
from services.store.steps import Steps, run_postgres
from services.store.tables import OBSERVED, RECEIVED, Table

_REMOVED_AT_ONCE = 20_000
_EVENT_COLUMNS = {
    table.name: (*table.names, "observed_at", "received_at") for table in tables.EVENT_TABLES
}
_KNOWN = "SELECT 1 FROM batches WHERE tenant_id = $1 AND agent_id = $2 AND batch_id = $3"


def _insert(table: Table) -> str:
    """Inserts what is not there yet, and returns the key of what was inserted."""
    marks = ", ".join(f"${n + 1}" for n in range(len(table.columns)))
    names = ", ".join(table.names)
    return (
        f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608 - our own words
        f" ON CONFLICT DO NOTHING RETURNING {', '.join(table.key)}"
    )


_INSERT = {table.name: _insert(table) for table in tables.PLAIN_TABLES if table.key}


async def prepare(connection: Any, settings: StoreSettings, where: str) -> None:
    """As `Store.open`."""
    extended = await timescale.usable(connection)
    async with partitions.schema_lock(connection):
        if extended:
            await connection.execute(timescale.EXTENSION)
        # Asked first, for who may only read and write may not even say CREATE IF NOT EXISTS.
        if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
            await connection.execute(migrations.VERSION_TABLE)
        found = await connection.fetchval("SELECT coalesce(max(version), 0) FROM schema_version")
        partitioned = await _is_partitioned(connection) if found else not extended
        steps = migrations.migrations_of("partitioned" if partitioned else "timescale")
        for step in migrations.pending(found, steps, where=where):
            for statement in step.statements:
                await connection.execute(statement)
            await connection.execute(
                "INSERT INTO schema_version VALUES ($1, $2, $3)",
                *(step.version, migrations.PROGRAM, _now_ms()),
            )
        if not partitioned:
            for statement in timescale.hypertables(found=found):
                await connection.execute(statement)
    if await _is_partitioned(connection):
        await partitions.prepare(connection, today=day_of(_now_ms()))
    else:
        async with partitions.schema_lock(connection):
            for statement in timescale.policies(settings):
                await connection.execute(statement)


async def _is_partitioned(connection: Any) -> bool:
    """Whether this schema was made without TimescaleDB; it stays that way if that comes later."""
    kind = await connection.fetchval(
        "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", tables.EXEC.name
    )
    return bool(kind == "p")


async def add_telemetry(connection: Any, messages: Sequence[Telemetry]) -> Added:
    """As `Store.add_telemetry`."""
    lines = lines_of(messages, stored_at_unix_ms=_now_ms())
    # One connection, one call at a time: plain statements do what a transaction object would.
    await connection.execute("BEGIN")
    new = await _insert_new(connection, "batches", [line for line, _ in lines])
    fresh = [message for line, message in lines if line.key in new]
    left = [line for line, _ in lines if line.key not in new]
    added = len(fresh) + await _add_overlapping(connection, left)
    rows = 0
    for table, records in event_rows(fresh, texts=list).items():
        await _copy(connection, table, _EVENT_COLUMNS[table], _with_moments(records))
        rows += len(records)
    await _copy(connection, "agent_gaps", tables.GAPS.names, gap_rows(fresh))
    await _insert_new(connection, "evictions", eviction_rows(fresh))
    await connection.execute("COMMIT")
    return Added(messages=added, rows=rows, duplicates=len(messages) - added)


async def _insert_new(connection: Any, table: str, rows: Sequence[Row]) -> set[Row]:
    """Keys of those rows that were not there; waits for others who are writing the same."""
    if not rows:
        return set()
    return {tuple(key) for key in await connection.fetchmany(_INSERT[table], rows)}


async def _add_overlapping(connection: Any, lines: Sequence[Line]) -> int:
    """Of lines that could not be written, those that have no line yet: how many."""
    overlapping = [
        line.as_overlap() for line in lines if await connection.fetchval(_KNOWN, *line.key) is None
    ]
    return len(await _insert_new(connection, "batches", overlapping))


def _with_moments(rows: Sequence[Row]) -> list[Row]:
    return [(*row, moment(row[OBSERVED]), moment(row[RECEIVED])) for row in rows]


async def _copy(connection: Any, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    if rows:
        await connection.copy_records_to_table(table, records=rows, columns=columns)


async def add_rows(connection: Any, table: Table, rows: Sequence[Row], given: int) -> Added:
    """Add rows that are not there yet."""
    async with connection.transaction():
        new = await _insert_new(connection, table.name, rows)
    return Added(messages=len(new), duplicates=given - len(new))


async def add_alerts(connection: Any, rows: Sequence[Row], given: int) -> Added:
    """As `Store.add_alerts`."""
    async with connection.transaction():
        new = await _insert_new(connection, tables.ALERTS.name, rows)
        repeated = [row for row in rows if alert_key(row) not in new]
        await run_postgres(connection, settle(rows, repeated=repeated, dialect="postgres"))
    return Added(messages=len(new), duplicates=given - len(new))


async def read(connection: Any, steps: Steps[Any]) -> Any:
    """What steps that only read come to."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return await run_postgres(connection, steps)


async def retain(connection: Any, settings: StoreSettings, now_unix_ms: int) -> None:
    """As `Store.retain`."""
    if await _is_partitioned(connection):
        await partitions.prepare(connection, today=day_of(now_unix_ms))
        cutoff = event_cutoff(settings, now_unix_ms=now_unix_ms)
        await partitions.remove(connection, cutoff_unix_ms=cutoff)
    for table, cutoff in plain_cutoffs(settings, now_unix_ms=now_unix_ms):
        statement = (
            f"DELETE FROM {table} WHERE ctid = ANY (ARRAY("  # noqa: S608 - our own words
            f"SELECT ctid FROM {table} WHERE received_at_unix_ms < $1 LIMIT {_REMOVED_AT_ONCE}))"
        )
        while await connection.execute(statement, cutoff) != "DELETE 0":
            pass


async def ledger(
    connection: Any,
    values: tuple[int, int, str | None, str | None],
    count_rows: bool,  # noqa: FBT001 - a crossing passes by place
) -> LedgerFacts:
    """As `Store.ledger`."""
    since, until, *_ = values
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        answers = {
            name: [tuple(row) for row in await connection.fetch(query, *values)]
            for name, query in queries("postgres").items()
        }
        counts: list[Row] = []
        if count_rows:
            # By the timestamp, so that only the partitions of the range are read.
            for query in row_queries(bounds=" AND received_at BETWEEN $5 AND $6"):
                found = await connection.fetch(query, *values, moment(since), moment(until))
                counts += [tuple(row) for row in found]
    return facts_of(answers, counts)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
