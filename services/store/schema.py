"""The SQL that makes the tables, for each dialect: text from `tables`, nothing is executed here."""

from __future__ import annotations

from typing import Literal, TypeAlias

from services.store import tables
from services.store.tables import Column, Kind, Table

Dialect: TypeAlias = Literal["sqlite", "postgres"]

_TYPES: dict[Dialect, dict[Kind, str]] = {
    "sqlite": {
        "text": "TEXT",
        "int": "INTEGER",
        "big": "INTEGER",
        "bool": "INTEGER",
        "json": "TEXT",
        "texts": "TEXT",
    },
    "postgres": {
        "text": "text",
        "int": "integer",
        "big": "bigint",
        "bool": "boolean",
        "json": "jsonb",
        "texts": "text[]",
    },
}
_MOMENT: dict[Dialect, str] = {
    "sqlite": "TEXT GENERATED ALWAYS AS"
    " (strftime('%Y-%m-%dT%H:%M:%fZ', {ms} / 1000.0, 'unixepoch')) VIRTUAL",
    "postgres": "timestamptz GENERATED ALWAYS AS (to_timestamp({ms} / 1000.0)) STORED",
}
_STATUS = (
    "status text NOT NULL DEFAULT 'open'"
    " CHECK (status IN ('open', 'acknowledged', 'resolved', 'dismissed'))"
)
_INDEXES = (
    # Two batches that claim the same sequence numbers: the second is refused.
    (
        "CREATE UNIQUE INDEX batches_claims ON batches (tenant_id, agent_id, epoch, first_seq)"
        " WHERE last_seq >= first_seq AND NOT is_overlap"
    ),
    "CREATE INDEX batches_received ON batches (received_at_unix_ms)",
    # All that the ledger's search for missing runs reads, so that it reads nothing but the index.
    (
        "CREATE INDEX batches_sequence ON batches"
        " (tenant_id, agent_id, epoch, first_seq, last_seq, received_at_unix_ms)"
        " WHERE NOT is_overlap"
    ),
    "CREATE INDEX batches_rejected ON batches (received_at_unix_ms) WHERE rejected <> '{}'",
    "CREATE INDEX batches_numbers ON batches (tenant_id, agent_id, epoch, number)",
    "CREATE INDEX agent_gaps_received ON agent_gaps (received_at_unix_ms)",
    "CREATE INDEX evictions_received ON evictions (received_at_unix_ms)",
    "CREATE INDEX invalid_messages_received ON invalid_messages (received_at_unix_ms)",
    "CREATE INDEX alerts_received ON alerts (received_at_unix_ms)",
    "CREATE INDEX alerts_of_agents ON alerts (tenant_id, agent_id, received_at_unix_ms)",
)
COUNTS_TABLE = (
    "CREATE TABLE event_counts (tenant_id TEXT NOT NULL, agent_id TEXT NOT NULL,"
    " minute_unix_ms INTEGER NOT NULL, type TEXT NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (tenant_id, agent_id, minute_unix_ms, type)) STRICT, WITHOUT ROWID"
)
"""Events received per minute, in the embedded store."""


def moment_columns(table: Table) -> list[tuple[str, str]]:
    """The timestamps of a table: name, and the column of milliseconds it shows."""
    return [
        (name.removesuffix("_unix_ms"), name)
        for name in table.names
        if name.endswith("_at_unix_ms")
    ]


def _column(column: Column, dialect: Dialect) -> str:
    null = "" if column.nullable else " NOT NULL"
    return f"{column.name} {_TYPES[dialect][column.kind]}{null}"


def _create(table: Table, dialect: Dialect, *, generated: bool = True, after: str = "") -> str:
    parts = [_column(column, dialect) for column in table.columns]
    if table.name in (tables.ALERTS.name, tables.INCIDENTS.name):
        parts.append(_STATUS)
    for name, ms in moment_columns(table):
        kind = _MOMENT[dialect].format(ms=ms) if generated else "timestamptz NOT NULL"
        parts.append(f"{name} {kind}")
    if table.key:
        parts.append(f"UNIQUE ({', '.join(table.key)})")
    return f"CREATE TABLE {table.name} ({', '.join(parts)}){after}"


def version_1_sqlite() -> list[str]:
    """The embedded store's first schema."""
    events = tables.in_version_1(tables.EVENT_TABLES)
    statements = [
        _create(table, "sqlite", after=" STRICT")
        for table in (*events, *tables.in_version_1(tables.PLAIN_TABLES))
    ]
    statements += [
        f"CREATE INDEX {table.name}_received ON {table.name} (received_at_unix_ms)"
        for table in events
    ]
    return [*statements, *_INDEXES, COUNTS_TABLE]


def version_1_postgres(*, partitioned: bool) -> list[str]:
    """PostgreSQL's first schema.

    Args:
        partitioned: by the server itself; else the tables are plain, for TimescaleDB to take over.
    """
    statements = []
    for table in tables.in_version_1(tables.EVENT_TABLES):
        statements += _create_events(table, partitioned=partitioned)
    statements += [_create(table, "postgres") for table in tables.in_version_1(tables.PLAIN_TABLES)]
    return [*statements, *_INDEXES]


def _create_events(table: Table, *, partitioned: bool) -> list[str]:
    # The partition key cannot be a generated column, so the writer gives an event's timestamps.
    after = " PARTITION BY RANGE (received_at)" if partitioned else ""
    statements = [
        _create(table, "postgres", generated=False, after=after),
        f"CREATE INDEX {table.name}_of_agents ON {table.name} (tenant_id, agent_id, received_at)",
    ]
    if partitioned:
        statements.append(f"CREATE TABLE {table.name}_default PARTITION OF {table.name} DEFAULT")
    return statements


_DEFAULTS_IN_2: dict[str, str] = {
    "level": "'medium'",
    "lane": "'page'",
    "source": "'agent'",
    "count": "1",
    "last_observed_at_unix_ms": "0",
    "processes": "'[]'",
}
"""What a row of version 1 has in the new columns; other texts are empty."""
_INDEXES_IN_2 = (
    (
        "CREATE INDEX alerts_of_incidents ON alerts (incident_id, observed_at_unix_ms)"
        " WHERE incident_id IS NOT NULL"
    ),
    "CREATE INDEX incidents_seen ON incidents (last_seen_at_unix_ms, incident_id)",
    "CREATE INDEX incidents_received ON incidents (received_at_unix_ms)",
)


def version_2_sqlite() -> list[str]:
    """Seeds, incidents, and all that history and alerts have to say."""
    statements = [_create(table, "sqlite", after=" STRICT") for table in tables.NEW_IN_2]
    statements += _added_in_2("sqlite")
    for table in tables.EVENT_TABLES:
        # By these, history finds the events of some batches, and retention what is too old.
        statements += [
            f"DROP INDEX IF EXISTS {table.name}_received",
            (
                f"CREATE INDEX {table.name}_received ON {table.name}"
                " (received_at_unix_ms, tenant_id, agent_id, seq)"
            ),
        ]
    return [*statements, *_INDEXES_IN_2]


def version_2_postgres(*, partitioned: bool) -> list[str]:
    """As `version_2_sqlite`."""
    return [
        *_create_events(tables.SEED, partitioned=partitioned),
        _create(tables.INCIDENTS, "postgres"),
        *_added_in_2("postgres"),
        *_INDEXES_IN_2,
    ]


def _added_in_2(dialect: Dialect) -> list[str]:
    statements = []
    for name, added in tables.ADDED_IN_2.items():
        for column in added:
            default = _DEFAULTS_IN_2.get(column.name, "''")
            if column.kind == "texts":
                default = "'[]'" if dialect == "sqlite" else "'{}'"
            text = _column(column, dialect) + ("" if column.nullable else f" DEFAULT {default}")
            statements.append(f"ALTER TABLE {name} ADD COLUMN {text}")
    ms = "last_observed_at_unix_ms"
    return [
        *statements,
        "UPDATE alerts SET last_observed_at_unix_ms = observed_at_unix_ms",
        f"ALTER TABLE alerts ADD COLUMN last_observed_at {_MOMENT[dialect].format(ms=ms)}",
    ]
