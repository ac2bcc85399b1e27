"""Work on a store as steps: what is asked of the database, apart from how it is reached.

A generator yields a statement with its parameters (``$1``, ``$2`` …), is sent the rows that came of
it, and returns its result. Both stores run the same generators, each over its own connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from typing import Any, TypeAlias, TypeVar

from services.store.rows import Row

T = TypeVar("T")
Statement: TypeAlias = tuple[str, Sequence[object]]
Steps: TypeAlias = Generator[Statement, list[Row], T]


def run_sqlite(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    """Take the steps over a connection, in a transaction if the caller began one."""
    try:
        query, values = next(steps)
        while True:
            named = {str(place): value for place, value in enumerate(values, 1)}
            query, values = steps.send(connection.execute(query, named).fetchall())
    except StopIteration as end:
        result: T = end.value
        return result


async def run_postgres(connection: Any, steps: Steps[T]) -> T:
    """As `run_sqlite`; asyncio's, and it awaits asyncpg alone."""
    try:
        query, values = next(steps)
        while True:
            rows = await connection.fetch(query, *values)
            query, values = steps.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result
