"""Where a store under test lives, seen from outside: its rows, and ways to take it away."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from services.store.interface import Store
from services.store.postgres import PostgresStore
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from tests.services.postgres import Cluster


class Place(Protocol):
    """A fresh, empty place for a store."""

    settings: StoreSettings

    def store(self) -> Store:
        """Another store on this place, not yet opened."""

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What is there, by a query; JSON and lists of texts as Python values."""

    def columns(self, table: str) -> dict[str, tuple[str, bool]]:
        """Columns of a table: the database's word for its type, and whether it may be NULL."""

    def change(self, statement: str) -> None:
        """Change something behind the store's back."""

    def away(self) -> Any:
        """A context in which the store cannot be reached."""


class SqlitePlace:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = StoreSettings(url=f"sqlite:{path}")

    def store(self) -> Store:
        return SqliteStore(self.settings, busy_secs=0.3)

    def rows(self, query: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [_decoded(dict(row)) for row in connection.execute(query)]

    def columns(self, table: str) -> dict[str, tuple[str, bool]]:
        found = self.rows(f"SELECT name, type, \"notnull\" FROM pragma_table_info('{table}')")  # noqa: S608 - ours
        return {row["name"]: (row["type"], not row["notnull"]) for row in found}

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)

    @contextmanager
    def away(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


class PostgresPlace:
    def __init__(self, server: Cluster) -> None:
        self.server = server
        url = server.new_database()
        self.database = url.rpartition("/")[2]
        self.settings = StoreSettings(url=url)

    def store(self) -> Store:
        return PostgresStore(self.settings, call_secs=10)

    def rows(self, query: str) -> list[dict[str, Any]]:
        lines = self.server.sql(
            f"SELECT to_json(found) FROM ({query}) found",  # noqa: S608 - the test's own words
            database=self.database,
        )
        return [json.loads(line) for line in lines]

    def columns(self, table: str) -> dict[str, tuple[str, bool]]:
        found = self.rows(
            "SELECT column_name AS name, data_type AS type, is_nullable AS null"  # noqa: S608 - ours
            f" FROM information_schema.columns WHERE table_name = '{table}'"
        )
        return {row["name"]: (row["type"], row["null"] == "YES") for row in found}

    def change(self, statement: str) -> None:
        self.server.sql(statement, database=self.database)

    @contextmanager
    def away(self) -> Iterator[None]:
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()


_JSON = {
    *("argv", "techniques", "evidence", "rejected", "counters", "rule_references", "processes"),
    *("targets", "stdio"),
}
_TRUTH = {"system_exe", "argv_cut", "resolved", "is_overlap", "witness", "failed"}


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    for name, value in row.items():
        if name in _JSON and value is not None:
            row[name] = json.loads(value)
        elif name in _TRUTH and value is not None:
            row[name] = bool(value)
    return row
