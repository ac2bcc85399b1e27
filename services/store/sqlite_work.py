"""What the embedded store does within a transaction; plain functions, called in a worker thread."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from services.store import migrations, tables
from services.store.alerts import settle
from services.store.interface import Added, Telemetry
from services.store.lines import Line, eviction_rows, gap_rows, lines_of
from services.store.rows import Row, event_rows
from services.store.steps import run_sqlite
from services.store.tables import Table
from transport.messages import CanonicalBatch

_REMOVED_AT_ONCE = 5000
"""Rows that retention removes in one transaction: others wait no longer than for these."""


def _insert(table: Table) -> str:
    """Inserts what is not there yet."""
    marks = ", ".join("?" * len(table.columns))
    names = ", ".join(table.names)
    conflict = " ON CONFLICT DO NOTHING" if table.key else ""
    return f"INSERT INTO {table.name} ({names}) VALUES ({marks}){conflict}"  # noqa: S608 - ours


_INSERT = {table.name: _insert(table) for table in (*tables.EVENT_TABLES, *tables.PLAIN_TABLES)}
_KNOWN = "SELECT 1 FROM batches WHERE tenant_id = ? AND agent_id = ? AND batch_id = ?"
_COUNT = (
    "INSERT INTO event_counts VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET count = count + excluded.count"
)


def texts_as_json(texts: tuple[str, ...]) -> str:
    """A list of texts as the file holds it."""
    return msgspec.json.encode(texts).decode()


def migrate(connection: sqlite3.Connection, where: str) -> None:
    """Bring the schema up to date."""
    connection.execute(migrations.VERSION_TABLE)
    (found,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    for step in migrations.pending(found, migrations.migrations_of("sqlite"), where=where):
        for statement in step.statements:
            connection.execute(statement)
        connection.execute(
            "INSERT INTO schema_version VALUES (?, ?, ?)",
            (step.version, migrations.PROGRAM, time.time_ns() // 1_000_000),
        )


def add_telemetry(connection: sqlite3.Connection, messages: Sequence[Telemetry]) -> Added:
    """As `Store.add_telemetry`."""
    fresh: list[Telemetry] = []
    added = 0
    for line, message in lines_of(messages, stored_at_unix_ms=time.time_ns() // 1_000_000):
        written = _add_line(connection, line)
        if written is None:
            continue
        added += 1
        fresh += [] if written.is_overlap else [message]
    rows = 0
    for table, records in event_rows(fresh, texts=texts_as_json).items():
        connection.executemany(_INSERT[table], records)
        rows += len(records)
    connection.executemany(_INSERT["agent_gaps"], gap_rows(fresh))
    connection.executemany(_INSERT["evictions"], eviction_rows(fresh))
    connection.executemany(_COUNT, _counts(fresh))
    return Added(messages=added, rows=rows, duplicates=len(messages) - added)


def _add_line(connection: sqlite3.Connection, line: Line) -> Line | None:
    """The line as it was written; None if the message has one already."""
    insert = _INSERT["batches"]
    if connection.execute(insert, line).rowcount:
        return line
    if connection.execute(_KNOWN, line.key).fetchone():
        return None
    line = line.as_overlap()
    connection.execute(insert, line)
    return line


def _counts(messages: Iterable[Telemetry]) -> list[Row]:
    """Events per tenant, agent, minute of reception and type."""
    found: Counter[tuple[str, str, int, str]] = Counter()
    for message in messages:
        minute = message.received_at_unix_ms // 60_000 * 60_000
        events = message.events if isinstance(message, CanonicalBatch) else [message.event]
        kinds: Counter[type[msgspec.Struct]] = Counter(map(type, events))
        for kind, count in kinds.items():
            tag = str(kind.__struct_config__.tag)
            found[message.tenant_id, message.agent_id, minute, tag] += count
    return [(*key, count) for key, count in found.items()]


def add_rows(
    connection: sqlite3.Connection, table: Table, rows: Sequence[Row], given: int
) -> Added:
    """Add rows that are not there yet."""
    added = max(0, connection.executemany(_INSERT[table.name], rows).rowcount)
    return Added(messages=added, duplicates=given - added)


def add_alerts(connection: sqlite3.Connection, rows: Sequence[Row], given: int) -> Added:
    """As `Store.add_alerts`."""
    added = add_rows(connection, tables.ALERTS, rows, given)
    # Which of them were there is not known; a new one has nothing to gain from itself.
    repeated = rows if added.duplicates else ()
    run_sqlite(connection, settle(rows, repeated=repeated, dialect="sqlite"))
    return added


def remove(connection: sqlite3.Connection, table: str, cutoff: int) -> int:
    """Remove some of what is older; how many."""
    return connection.execute(
        f"DELETE FROM {table} WHERE rowid IN"  # noqa: S608 - our own words
        f" (SELECT rowid FROM {table} WHERE received_at_unix_ms < ? LIMIT {_REMOVED_AT_ONCE})",
        (cutoff,),
    ).rowcount


def remove_counts(connection: sqlite3.Connection, cutoff: int) -> None:
    """Remove the counts of older minutes."""
    connection.execute("DELETE FROM event_counts WHERE minute_unix_ms < ?", (cutoff,))
