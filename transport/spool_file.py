"""The spool's SQLite file: how it is opened, and what replaces one that is damaged.

Functions that take a connection may raise `sqlite3.Error`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypeVar
from zlib import crc32

import msgspec

from transport.messages import Evicted
from transport.spool_errors import explained, is_damage
from transport.spool_evictions import EvictionLog
from transport.spool_folder import make_file, set_aside
from transport.spool_records import Marks, Opened

APPLICATION_ID = 0x4C565350
"""``LVSP``: what tells our file from another program's."""
SCHEMA_VERSION = 1
PAGE_BYTES = 8192
WAL_BYTES = 4 * 1024 * 1024
"""The write-ahead log is brought into the file when it is larger; it is kept, and written again."""
MARKS = "marks"
EVICTIONS = "evictions"

_SCHEMA = (
    (
        "CREATE TABLE item (id INTEGER PRIMARY KEY, message_id TEXT, subject TEXT, epoch TEXT,"
        " first_seq INTEGER, events INTEGER, created_unix_ms INTEGER, crc INTEGER, payload BLOB)"
    ),
    "CREATE TABLE state (name TEXT PRIMARY KEY, value BLOB, crc INTEGER) WITHOUT ROWID",
)
_T = TypeVar("_T")
_decode_marks = msgspec.json.Decoder(Marks).decode
_decode_log = msgspec.json.Decoder(EvictionLog).decode


class SpoolFile(NamedTuple):
    """An open file and what it says."""

    connection: sqlite3.Connection
    marks: Marks | None
    evictions: EvictionLog
    opened: Opened


def open_file(path: Path) -> SpoolFile:
    """Open the file; one that is damaged or no spool is set aside, and a new one takes its place.

    The marks and evictions are carried over if they can be read. All events of the marks' epoch are
    then noted as evicted: which of them had been sent, nobody knows any more.

    Raises:
        SpoolError: the disk or the folder refuses.
        OSError: the folder refuses.
    """
    with explained(path, "open"):
        problem, marks, log = "it is not a file", None, EvictionLog()
        if make_file(path):
            connection = connect(path)
            try:
                problem, marks, log = _inspect(connection)
            except BaseException:
                connection.close()
                raise
            if not problem:
                how: Opened = Opened("resumed" if marks else "fresh")
                return SpoolFile(connection, marks, log, how)
            connection.close()
        opened = Opened("set_aside", problem, set_aside(path))
        make_file(path)
        connection = connect(path)
        try:
            return SpoolFile(connection, marks, log, _replace(connection, marks, log, opened))
        except BaseException:
            connection.close()
            raise


def _replace(
    connection: sqlite3.Connection, marks: Marks | None, log: EvictionLog, opened: Opened
) -> Opened:
    """Write into a new file what was carried over from a damaged one."""
    _problem_of(connection)
    if marks is not None:
        if marks.counters.spooled:
            log.add_run(Evicted(marks.epoch, 0, marks.counters.spooled - 1, "corrupt"))
        connection.execute("BEGIN IMMEDIATE")
        write_state(connection, MARKS, msgspec.json.encode(marks))
        write_state(connection, EVICTIONS, msgspec.json.encode(log))
        connection.execute("COMMIT")
    return opened


def connect(path: Path) -> sqlite3.Connection:
    """A connection that will have the file for itself; reads nothing yet."""
    connection = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    # A damaged text must reach its checksum, not raise on the way.
    connection.text_factory = lambda text: text.decode(errors="replace")
    return connection


def pragma(connection: sqlite3.Connection, name: str) -> int | str:
    """The value of a pragma."""
    with closing(connection.execute(f"PRAGMA {name}")) as rows:
        value: int | str = rows.fetchone()[0]
    return value


def _inspect(connection: sqlite3.Connection) -> tuple[str, Marks | None, EvictionLog]:
    """What is wrong with the file, if anything, and as much of its state as can be read."""
    problem, marks, log = "", None, EvictionLog()
    try:
        problem = _problem_of(connection)
    except sqlite3.Error as error:
        problem = _damage(error)
    try:
        marks = _read_state(connection, MARKS, _decode_marks)
        if marks is None and _has_items(connection):
            problem = problem or "it has items, but no marks"
        log = _read_state(connection, EVICTIONS, _decode_log) or log
    except sqlite3.Error as error:
        problem = problem or _damage(error)
    except (ValueError, msgspec.MsgspecError) as error:
        problem = problem or f"its state cannot be read: {error}"
    return problem, marks, log


def _damage(error: sqlite3.Error) -> str:
    """What an error says of the file; raised again if it is about something else."""
    # SQLITE_ERROR: a file format from the future, so a flipped bit in the header.
    if is_damage(error) or getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:
        return str(error)
    raise error


def _problem_of(connection: sqlite3.Connection) -> str:
    """Why this is not a sound spool; empty if it is one. Creates the schema in an empty file."""
    for setting in (
        # No shared-memory file, and no other program in between.
        "locking_mode=EXCLUSIVE",
        "temp_store=MEMORY",
        # Debian's default zeroes what is deleted, which writes every payload once more.
        "secure_delete=OFF",
        f"page_size={PAGE_BYTES}",
        "synchronous=FULL",
        f"wal_autocheckpoint={WAL_BYTES // PAGE_BYTES}",
        f"journal_size_limit={2 * WAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {setting}").close()
    version = pragma(connection, "user_version")
    application = pragma(connection, "application_id")
    with closing(connection.execute("SELECT count(*) FROM sqlite_master")) as rows:
        fresh = not (rows.fetchone()[0] or application or version)
    if not fresh and application != APPLICATION_ID:
        return "it is another program's database"
    if not fresh and version != SCHEMA_VERSION:
        return f"its schema is version {version}, this agent knows {SCHEMA_VERSION}"
    if pragma(connection, "journal_mode=WAL") != "wal":
        return "it cannot keep a write-ahead log"
    if fresh:
        connection.executescript(
            f"BEGIN;{';'.join(_SCHEMA)};PRAGMA application_id={APPLICATION_ID};"
            f"PRAGMA user_version={SCHEMA_VERSION};COMMIT"
        )
    with closing(connection.execute("SELECT sql FROM sqlite_master ORDER BY name")) as rows:
        if tuple(sql for (sql,) in rows if sql) != _SCHEMA:
            return "its tables are not those of a spool"
    verdict = str(pragma(connection, "quick_check(1)"))
    return "" if verdict == "ok" else verdict


def _has_items(connection: sqlite3.Connection) -> bool:
    with closing(connection.execute("SELECT 1 FROM item LIMIT 1")) as rows:
        return rows.fetchone() is not None


def _read_state(
    connection: sqlite3.Connection, name: str, decode: Callable[[bytes], _T]
) -> _T | None:
    """A value of the state table, if there is one.

    Raises:
        ValueError: it is damaged; so says `msgspec.MsgspecError`.
    """
    with closing(connection.execute("SELECT value, crc FROM state WHERE name = ?", (name,))) as row:
        found = row.fetchone()
    if found is None:
        return None
    value, crc = found
    if not isinstance(value, bytes) or crc != crc32(value):
        raise ValueError(f"the {name} do not have their checksum")
    return decode(value)


def write_state(connection: sqlite3.Connection, name: str, value: bytes) -> None:
    """Replace a value of the state table."""
    connection.execute("REPLACE INTO state VALUES (?, ?, ?)", (name, value, crc32(value)))
