"""PostgreSQL's own partitions: a range of `received_at` for each day and event table.

Rows of days that have no partition (a clock that is off) fall into the default one, so nothing is
refused for its date. The functions are asyncio's: call them through `transport.crossing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import Any

import asyncpg

from services.store.retention import moment
from services.store.tables import EVENT_TABLES

_LOCK_KEY = 7_091_412_235
"""The advisory lock of everything that changes the schema; any number that nobody else uses."""
DAYS_BEFORE, DAYS_AHEAD = 1, 2
_CHILDREN = (
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
    " WHERE i.inhparent = to_regclass($1)"
)


def create(table: str, day: date) -> str:
    """Makes the partition of a day."""
    return (
        f"CREATE TABLE IF NOT EXISTS {_name(table, day)} PARTITION OF {table} FOR VALUES"
        f" FROM ('{day} 00:00:00+00') TO ('{day + timedelta(days=1)} 00:00:00+00')"
    )


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


def expired(table: str, names: list[str], *, before: date) -> list[str]:
    """Those of a table's partitions whose whole day lies before a day."""
    oldest_kept = _name(table, before)
    return sorted(
        name
        for name in names
        if len(name) == len(oldest_kept) and name[-8:].isdigit() and name < oldest_kept
    )


@asynccontextmanager
async def schema_lock(connection: Any) -> AsyncIterator[None]:
    """A transaction in which nobody else changes the schema."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK_KEY)
        yield


async def _children(connection: Any, table: str) -> list[str]:
    return [name for (name,) in await connection.fetch(_CHILDREN, table)]


async def prepare(connection: Any, *, today: date) -> None:
    """Make the partitions of the days around today, where they are missing."""
    days = [today + timedelta(days=n) for n in range(-DAYS_BEFORE, DAYS_AHEAD + 1)]
    for table in EVENT_TABLES:
        present = await _children(connection, table.name)
        for day in days:
            if _name(table.name, day) in present:
                continue
            try:
                async with schema_lock(connection):
                    await connection.execute(create(table.name, day))
            except asyncpg.CheckViolationError:
                # The default partition holds rows of that day already: it goes on doing so.
                continue


async def remove(connection: Any, *, cutoff_unix_ms: int) -> None:
    """Drop the partitions of the days before the cutoff, and such rows of the default one."""
    for table in EVENT_TABLES:
        names = await _children(connection, table.name)
        for name in expired(table.name, names, before=moment(cutoff_unix_ms).date()):
            async with schema_lock(connection):
                await connection.execute(f"DROP TABLE IF EXISTS {name}")
        await connection.execute(
            f"DELETE FROM {table.name}_default WHERE received_at < $1",  # noqa: S608 - our words
            moment(cutoff_unix_ms),
        )
