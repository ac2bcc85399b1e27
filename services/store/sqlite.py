"""The embedded store: one SQLite file in WAL mode, written by one connection in worker threads.

A call is one transaction, on the disk when the call returns. `sqlite_file` opens the file and knows
its errors; `sqlite_work` is what is done within a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TypeVar

import trio

from services.store import sqlite_file, sqlite_work, tables
from services.store.alerts import alert_rows, read_page, read_timeline
from services.store.chunks import Chunks
from services.store.history import Wanted
from services.store.incidents import IncidentPage, Timeline
from services.store.interface import Added, Chunk, LedgerFacts, StoreUnavailable, Telemetry
from services.store.ledger import facts_of, queries, row_queries
from services.store.lines import invalid_rows
from services.store.migrations import read_version
from services.store.retention import event_cutoff, plain_cutoffs
from services.store.settings import StoreSettings
from services.store.steps import Steps, run_sqlite
from transport.messages import Alert, Invalid

T = TypeVar("T")

_BUSY_SECS = 5.0
_RETRY_SECS = 0.05


class SqliteStore:
    """`Store` in one file, of the owner only.

    Args:
        settings: its ``url`` names the file; the folder must exist.
        busy_secs: how long to wait for another process that writes.
    """

    def __init__(self, settings: StoreSettings, *, busy_secs: float = _BUSY_SECS) -> None:
        if settings.sqlite_path is None:
            raise ValueError("settings of another store")
        self._path = settings.sqlite_path
        self._settings = settings
        self._busy_secs = busy_secs
        self._connection: sqlite3.Connection | None = None
        # One thread at a time: it guards the connection, and who comes first is served first.
        self._turn = trio.CapacityLimiter(1)

    async def open(self) -> None:
        """As `Store.open`."""
        deadline = trio.current_time() + self._busy_secs
        while True:
            try:
                return await self._do(sqlite_work.migrate, str(self._path))
            except StoreUnavailable:
                # SQLite does not wait by itself while another process turns the file to WAL.
                if trio.current_time() >= deadline:
                    raise
                await trio.sleep(_RETRY_SECS)

    async def schema_version(self) -> int:
        """As `Store.schema_version`."""
        return await self._read_apart(read_version("sqlite"))

    async def close(self) -> None:
        """As `Store.close`."""
        with trio.CancelScope(shield=True):  # only until the statement in hand is done
            await trio.to_thread.run_sync(self._drop, limiter=self._turn)

    async def add_telemetry(self, messages: Sequence[Telemetry]) -> Added:
        """As `Store.add_telemetry`."""
        return await self._do(sqlite_work.add_telemetry, messages)

    async def add_alerts(self, alerts: Sequence[Alert]) -> Added:
        """As `Store.add_alerts`."""
        rows = alert_rows(alerts, texts=sqlite_work.texts_as_json)
        return await self._do(sqlite_work.add_alerts, rows, len(alerts))

    async def add_invalid(self, refused: Sequence[Invalid]) -> Added:
        """As `Store.add_invalid`."""
        return await self._do(
            sqlite_work.add_rows, tables.INVALID, invalid_rows(refused), len(refused)
        )

    async def retain(self, now_unix_ms: int) -> None:
        """As `Store.retain`; in small steps, between which others may write."""
        events = event_cutoff(self._settings, now_unix_ms=now_unix_ms)
        # Events before their lines: at no moment could a late duplicate find its line gone and its
        # events still there.
        removals = [(table.name, events) for table in tables.EVENT_TABLES]
        removals += plain_cutoffs(self._settings, now_unix_ms=now_unix_ms)
        for table, cutoff in removals:
            while await self._do(sqlite_work.remove, table, cutoff):
                pass
        await self._do(sqlite_work.remove_counts, events)

    async def ledger(
        self,
        *,
        since_unix_ms: int,
        until_unix_ms: int,
        tenant_id: str | None = None,
        agent_id: str | None = None,
        count_rows: bool = False,
    ) -> LedgerFacts:
        """As `Store.ledger`; over a connection of its own, beside which others may write."""
        values: dict[str, object] = {
            "1": since_unix_ms,
            "2": until_unix_ms,
            "3": tenant_id,
            "4": agent_id,
        }
        return await trio.to_thread.run_sync(self._ledger, values, count_rows)

    async def incidents(
        self,
        *,
        since_unix_ms: int = 0,
        limit: int = 50,
        cursor: str = "",
        tenant_id: str | None = None,
    ) -> IncidentPage:
        """As `Store.incidents`."""
        steps = read_page(
            since_unix_ms=since_unix_ms, limit=limit, cursor=cursor, tenant_id=tenant_id
        )
        return await self._read_apart(steps)

    async def incident(self, incident_id: str) -> Timeline | None:
        """As `Store.incident`."""
        return await self._read_apart(read_timeline(incident_id))

    def history(
        self,
        *,
        since_unix_ms: int,
        until_unix_ms: int,
        tenant_id: str | None = None,
        agent_id: str | None = None,
    ) -> AsyncIterator[Chunk]:
        """As `Store.history`."""
        wanted = Wanted(since_unix_ms, until_unix_ms, tenant_id, agent_id)
        return Chunks(self._read_apart, wanted, dialect="sqlite")

    async def _do(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(self._in_transaction, work, args, limiter=self._turn)

    def _in_transaction(self, work: Callable[..., T], args: Sequence[object]) -> T:
        try:
            if self._connection is None:
                self._connection = sqlite_file.create(self._path, self._busy_secs)
            with sqlite_file.transaction(self._connection):
                return work(self._connection, *args)
        except (sqlite3.Error, OSError, UnicodeEncodeError, OverflowError) as error:
            if not isinstance(error, UnicodeEncodeError | OverflowError):
                self._drop()  # whatever state it is in, the next call begins anew
            raise sqlite_file.failure(error, self._path) from error

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _read_apart(self, steps: Steps[T]) -> T:
        return await trio.to_thread.run_sync(self._read, steps)

    def _read(self, steps: Steps[T]) -> T:
        """Over a connection of its own, beside which others may write."""
        with self._reading() as connection:
            return run_sqlite(connection, steps)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite_file.connect(self._path, self._busy_secs)) as connection:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")  # all queries see the same state
                yield connection
                connection.rollback()
        except sqlite3.Error as error:
            raise sqlite_file.failure(error, self._path) from error

    def _ledger(self, values: dict[str, object], count_rows: bool) -> LedgerFacts:  # noqa: FBT001 - run_sync passes by place
        with self._reading() as connection:
            answers = {
                name: connection.execute(query, values).fetchall()
                for name, query in queries("sqlite").items()
            }
            counts = [
                row
                for query in (row_queries() if count_rows else ())
                for row in connection.execute(query, values)
            ]
        return facts_of(answers, counts)
