from __future__ import annotations

import asyncpg
import pytest

from services.store.interface import StoreError, StoreRefused, StoreUnavailable
from services.store.postgres_errors import connect_failure, failure, server_of


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncpg.DiskFullError("disk full"), StoreUnavailable),
        (asyncpg.TooManyConnectionsError("too many"), StoreUnavailable),
        (asyncpg.CannotConnectNowError("starting up"), StoreUnavailable),
        (asyncpg.AdminShutdownError("shutting down"), StoreUnavailable),
        (asyncpg.ConnectionDoesNotExistError("closed"), StoreUnavailable),
        (asyncpg.DeadlockDetectedError("deadlock"), StoreUnavailable),
        (asyncpg.LockNotAvailableError("timeout"), StoreUnavailable),
        (asyncpg.ReadOnlySQLTransactionError("a standby"), StoreUnavailable),
        (asyncpg.PostgresIOError("I/O"), StoreUnavailable),
        (asyncpg.InterfaceError("closed"), StoreUnavailable),
        (asyncpg.InternalClientError("cannot switch"), StoreUnavailable),
        (ConnectionResetError("reset"), StoreUnavailable),
        (TimeoutError(), StoreUnavailable),
        (asyncpg.CharacterNotInRepertoireError("0x00"), StoreRefused),
        (asyncpg.NumericValueOutOfRangeError("large"), StoreRefused),
        (asyncpg.CheckViolationError("check"), StoreRefused),
        (OverflowError("large"), StoreRefused),
        (asyncpg.InsufficientPrivilegeError("denied"), StoreError),
        (asyncpg.UndefinedTableError("no table"), StoreError),
        (StoreRefused("as it is"), StoreRefused),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_an_error_is_what_a_caller_can_do(error: Exception, kind: type[StoreError]) -> None:
    assert type(failure(error, "here")) is kind


def test_a_mistake_of_ours_is_not_the_databases() -> None:
    assert failure(KeyError("tenant"), "here") is None


def test_what_is_said_of_a_bad_url_quotes_nothing() -> None:
    for error in (ValueError("u:secret@"), asyncpg.ClientConfigurationError("u:secret@")):
        text = str(connect_failure(error, "here"))
        assert text == f"here: store.url cannot be used ({type(error).__name__})"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://u:secret@db:5433/lavender", "PostgreSQL at db:5433/lavender"),
        ("postgres://u:secret@[::1]/x?sslmode=require", "PostgreSQL at ::1/x"),
        ("postgresql:///x?host=/run&password=secret", "PostgreSQL at local socket/x"),
        ("postgresql://u:secret@db:port/x", "PostgreSQL"),
        ("postgresql://[secret/x", "PostgreSQL"),
    ],
)
def test_a_server_is_named_without_its_password(url: str, name: str) -> None:
    assert server_of(url) == name
