"""PostgreSQL's errors, by what a caller can do: try later, give up this message, or mend the setup.

No text tells the password: the server is named by host, port and database alone.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg

from services.store.interface import StoreError, StoreRefused, StoreUnavailable

_UNAVAILABLE_CLASSES = {
    "08": "connection",
    "25": "transaction state, such as read-only on a standby",
    "40": "rollback: deadlock, serialization",
    "53": "resources: disk full, memory, connections",
    "55": "object state: lock timeout",
    "57": "operator: shutting down, starting up, cancelled",
    "58": "the server's system: I/O",
}
"""The first two characters of an SQLSTATE."""
_REFUSED_CLASSES = {
    "22": "data: out of range, characters that cannot be stored",
    "23": "constraint",
    "54": "program limit: too large for an index",
}

# asyncpg's internal errors: the server's last words came between two calls, and left the connection
# in a state that it does not know. A new connection has not that problem.
_PASSING = (OSError, TimeoutError, EOFError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def server_of(url: str) -> str:
    """Host, port and database of a URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "local socket", parts.port
    except ValueError:
        return "PostgreSQL"
    place = f"{host}:{port}" if port else host
    return f"PostgreSQL at {place}{parts.path}"


def failure(error: Exception, where: str) -> StoreError | None:
    """What an error is to the caller; None if it is none of the database's."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return _from_server(error, where)
    text = f"{where}: {error or type(error).__name__}"
    if isinstance(error, UnicodeEncodeError | OverflowError):
        return StoreRefused(text)
    if isinstance(error, _PASSING):
        return StoreUnavailable(text)
    return None


def connect_failure(error: Exception, where: str) -> StoreError:
    """The same for an error of connecting."""
    # What asyncpg says of a URL it does not like may quote it.
    is_url = isinstance(error, asyncpg.ClientConfigurationError)
    found = None if is_url else failure(error, where)
    return found or StoreError(f"{where}: store.url cannot be used ({type(error).__name__})")


def _from_server(error: asyncpg.PostgresError, where: str) -> StoreError:
    text = f"{where}: {' '.join(str(error).split())}"  # detail and hint come on lines of their own
    state = error.sqlstate or ""
    if state[:2] in _UNAVAILABLE_CLASSES:
        return StoreUnavailable(text)
    if state[:2] in _REFUSED_CLASSES:
        return StoreRefused(text)
    return StoreError(text)
