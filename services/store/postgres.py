"""The store in PostgreSQL: COPY straight into the partitions, one transaction for a call.

The methods are trio's; each crosses to asyncio once, inside `transport.crossing.open_loop`. What is
done on the other side is in `postgres_work`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import asyncpg
import trio

from services.passwords import read_password
from services.store import postgres_work, tables
from services.store.alerts import alert_rows, read_page, read_timeline
from services.store.chunks import Chunks
from services.store.history import Wanted
from services.store.incidents import IncidentPage, Timeline
from services.store.interface import Added, Chunk, LedgerFacts, StoreUnavailable, Telemetry
from services.store.lines import invalid_rows
from services.store.migrations import read_version
from services.store.postgres_errors import connect_failure, failure, server_of
from services.store.settings import StoreSettings
from transport import crossing
from transport.messages import Alert, Invalid

Work = Callable[..., Awaitable[Any]]

_CALL_SECS = 30.0
_CONNECT_SECS = 10.0
_LONG_SECS = 600.0
"""For the ledger and for retention, which go over all that is kept."""
_SERVER_SETTINGS = {
    "application_name": "lavender",
    "jit": "off",  # compiling takes longer than our queries
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",  # a frozen writer holds up the others no longer
}


class PostgresStore:
    """`Store` in a PostgreSQL database, over one connection.

    A connection that failed, in whatever way, is given up, and the next call makes a new one.

    Args:
        settings: its ``url`` names server, user and database.
        call_secs: a call that takes longer failed: the server is away.

    Raises:
        ConfigError: the file of its password cannot be used.
    """

    def __init__(self, settings: StoreSettings, *, call_secs: float = _CALL_SECS) -> None:
        self._settings = settings
        self._where = server_of(settings.url)
        file = settings.password_file
        self._password = read_password(file, "store.password_file") if file else None
        self._call_secs = call_secs
        self._connection: Any = None
        self._turn = trio.Lock()

    async def open(self) -> None:
        """As `Store.open`."""
        await self._do(postgres_work.prepare, self._settings, self._where)

    async def schema_version(self) -> int:
        """As `Store.schema_version`; over a connection of its own."""
        found: int = await self._apart(postgres_work.read, read_version("postgres"))
        return found

    async def close(self) -> None:
        """As `Store.close`."""
        async with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                with trio.CancelScope(shield=True):  # it says goodbye, a second at most
                    await crossing.call(_part, connection)

    async def add_telemetry(self, messages: Sequence[Telemetry]) -> Added:
        """As `Store.add_telemetry`."""
        added: Added = await self._do(postgres_work.add_telemetry, messages)
        return added

    async def add_alerts(self, alerts: Sequence[Alert]) -> Added:
        """As `Store.add_alerts`."""
        rows = alert_rows(alerts, texts=list)
        added: Added = await self._do(postgres_work.add_alerts, rows, len(alerts))
        return added

    async def add_invalid(self, refused: Sequence[Invalid]) -> Added:
        """As `Store.add_invalid`."""
        rows = invalid_rows(refused)
        added: Added = await self._do(postgres_work.add_rows, tables.INVALID, rows, len(refused))
        return added

    async def retain(self, now_unix_ms: int) -> None:
        """As `Store.retain`; over a connection of its own."""
        await self._apart(postgres_work.retain, self._settings, now_unix_ms)

    async def ledger(
        self,
        *,
        since_unix_ms: int,
        until_unix_ms: int,
        tenant_id: str | None = None,
        agent_id: str | None = None,
        count_rows: bool = False,
    ) -> LedgerFacts:
        """As `Store.ledger`; over a connection of its own."""
        values = (since_unix_ms, until_unix_ms, tenant_id, agent_id)
        facts: LedgerFacts = await self._apart(postgres_work.ledger, values, count_rows)
        return facts

    async def incidents(
        self,
        *,
        since_unix_ms: int = 0,
        limit: int = 50,
        cursor: str = "",
        tenant_id: str | None = None,
    ) -> IncidentPage:
        """As `Store.incidents`; over a connection of its own."""
        steps = read_page(
            since_unix_ms=since_unix_ms, limit=limit, cursor=cursor, tenant_id=tenant_id
        )
        page: IncidentPage = await self._apart(postgres_work.read, steps)
        return page

    async def incident(self, incident_id: str) -> Timeline | None:
        """As `Store.incident`; over a connection of its own."""
        found: Timeline | None = await self._apart(postgres_work.read, read_timeline(incident_id))
        return found

    def history(
        self,
        *,
        since_unix_ms: int,
        until_unix_ms: int,
        tenant_id: str | None = None,
        agent_id: str | None = None,
    ) -> AsyncIterator[Chunk]:
        """As `Store.history`; each time it goes on over a connection of its own."""
        wanted = Wanted(since_unix_ms, until_unix_ms, tenant_id, agent_id)
        return Chunks(partial(self._apart, postgres_work.read), wanted, dialect="postgres")

    async def _do(self, work: Work, *args: object) -> Any:
        async with self._turn:
            return await self._bounded(self._call_secs, self._over_ours, work, args)

    async def _apart(self, work: Work, *args: object) -> Any:
        return await self._bounded(_LONG_SECS, self._over_another, work, args)

    async def _bounded(self, secs: float, run: Work, work: Work, args: Sequence[object]) -> Any:
        try:
            with trio.fail_after(secs):
                return await crossing.call(run, work, args)
        except trio.TooSlowError:
            raise StoreUnavailable(f"{self._where}: no answer in {secs:g} s") from None

    async def _over_ours(self, work: Work, args: Sequence[object]) -> Any:
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            connection = await self._connect(self._call_secs)
        result = await self._attempt(connection, work, args)
        self._connection = connection
        return result

    async def _over_another(self, work: Work, args: Sequence[object]) -> Any:
        connection = await self._connect(_LONG_SECS)
        result = await self._attempt(connection, work, args)
        await _part(connection)
        return result

    async def _connect(self, command_secs: float) -> Any:
        try:
            return await asyncpg.connect(
                self._settings.url,
                password=self._password,
                timeout=_CONNECT_SECS,
                command_timeout=command_secs,
                server_settings=_SERVER_SETTINGS,
            )
        except Exception as error:
            raise connect_failure(error, self._where) from error

    async def _attempt(self, connection: Any, work: Work, args: Sequence[object]) -> Any:
        try:
            return await work(connection, *args)
        except BaseException as error:  # also when cancelled
            connection.terminate()  # and the server rolls back what we leave behind
            known = failure(error, self._where) if isinstance(error, Exception) else None
            if known is None:
                raise
            raise known from error


async def _part(connection: Any) -> None:
    try:
        await connection.close(timeout=1)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
