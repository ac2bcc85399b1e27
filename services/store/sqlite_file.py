"""The file of the embedded store: how it is made and opened, and what its errors mean to a caller.

``synchronous=FULL``, because with less a power cut could take what the broker was already told is
safe.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.store.interface import StoreError, StoreRefused, StoreUnavailable

_SETTINGS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA wal_autocheckpoint = 4000",  # 16 MB: fewer pages are written twice
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -16000",
    "PRAGMA temp_store = MEMORY",
)
_UNAVAILABLE = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT),
}
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}
_REFUSED = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def create(path: Path, busy_secs: float) -> sqlite3.Connection:
    """A connection that may write, to a file that is made if there is none.

    Raises:
        StoreError: it cannot serve here.
        sqlite3.Error, OSError: see `failure`.
    """
    _create_private(path)
    connection = connect(path, busy_secs)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        for pragma in _SETTINGS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    if mode != "wal":
        connection.close()
        raise StoreError(
            f"{path}: this file system cannot hold a SQLite file in WAL mode; put it on a local "
            "disk"
        )
    return connection


def _create_private(path: Path) -> None:
    """Create the file for the owner only, and `-wal` and `-shm` with it, which take its mode.

    It is made under another name and linked into place: were a file that SQLite has open in this
    process opened and closed beside it, all locks on it would be gone.
    """
    if path.exists():
        return
    descriptor, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        os.close(descriptor)
        os.link(made, path)
    except FileExistsError:
        pass  # another process was faster
    finally:
        Path(made).unlink()


def connect(path: Path, busy_secs: float) -> sqlite3.Connection:
    """A connection to a file that is there, for any thread."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",  # never creates one
        timeout=busy_secs,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything inside is done or nothing; waits while another process writes."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


def failure(error: Exception, path: Path) -> StoreError:
    """What an error is to the caller: try later, give up this message, or mend the setup."""
    if isinstance(error, UnicodeEncodeError | OverflowError):
        return StoreRefused(f"{path}: {error}")
    if isinstance(error, OSError):
        kind = StoreUnavailable if error.errno in _PASSING else StoreError
        return kind(f"{path}: {error.strerror}")
    # Errors of the module itself have no code: too many columns, a closed connection.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"{path}: {error}")
    if code in _REFUSED:
        return StoreRefused(f"{path}: {error}")
    if code in _DAMAGED:
        return StoreError(
            f"{path}: {error}; set the file aside together with its -wal and -shm (a new one is "
            f"started in its place), or save what can be read: sqlite3 {path} .recover"
        )
    return StoreError(f"{path}: {error}")
