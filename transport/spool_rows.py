"""The rows of the spool: messages in and out of SQLite, each with its checksum.

Every function may raise `sqlite3.Error`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from zlib import crc32

from transport.messages import EVENTS_MAX, I63_MAX
from transport.spool_evictions import Gone, Kind
from transport.spool_records import Item, NewItem

OVERHEAD_BYTES = 512
"""What a row costs beside its payload."""
RANGES: dict[Kind, tuple[int, int]] = {"alert": (0, 1 << 62), "telemetry": (1 << 62, I63_MAX)}
"""First id of a kind, and the end: so the order of ids is the order of sending."""

_INSERT = "INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM item WHERE id = ?"
_ONE = "SELECT * FROM item WHERE id = ?"
_SIZE = "SELECT length(payload) FROM item WHERE id = ?"
_SIZES = "SELECT id, length(payload) FROM item WHERE id >= 0 ORDER BY id"
_STOCK = "SELECT count(*), total(length(payload)), max(id) FROM item WHERE id >= ? AND id < ?"
# The payload is the last column: those before it are read without it, and so is its length.
_OLDEST = (
    "SELECT id, length(payload), created_unix_ms, epoch, first_seq, events FROM item"
    " WHERE id >= ? AND id < ? ORDER BY id"
)
_EPOCH = re.compile(r"[0-9a-f]{16}")


class Stock(NamedTuple):
    """What the file has of a kind."""

    items: int
    size_bytes: int
    """Overhead included."""
    next_id: int


class Doomed(NamedTuple):
    """A row that must leave."""

    id: int
    size_bytes: int
    gone: Gone


def kind_of(number: int) -> Kind:
    """The kind of an id."""
    return "telemetry" if number >= RANGES["telemetry"][0] else "alert"


def cost_bytes(payload_bytes: int) -> int:
    """What a row is held against the bound for."""
    return payload_bytes + OVERHEAD_BYTES


def stock(connection: sqlite3.Connection, kind: Kind) -> Stock:
    """Count the rows of a kind."""
    with closing(connection.execute(_STOCK, RANGES[kind])) as rows:
        items, payload_bytes, last = rows.fetchone()
    next_id = RANGES[kind][0] if last is None else last + 1
    return Stock(items, int(payload_bytes) + items * OVERHEAD_BYTES, next_id)


def row_of(number: int, item: NewItem, created_unix_ms: int) -> tuple[Any, ...]:
    """A message as a row."""
    facts = (
        *(item.message_id, item.subject, item.epoch, item.first_seq, item.events),
        created_unix_ms,
    )
    return (number, *facts, _checksum(number, facts, item.payload), item.payload)


def insert(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write rows."""
    connection.executemany(_INSERT, rows)


def delete(connection: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Delete rows; those that are not there are ignored."""
    connection.executemany(_DELETE, [(number,) for number in ids])


def read(connection: sqlite3.Connection, number: int) -> Item | Gone:
    """The message of a row that is there; if it is damaged, what can still be said of it."""
    with closing(connection.execute(_ONE, (number,))) as rows:
        _, *facts, crc, payload = rows.fetchone()
    if isinstance(payload, bytes) and crc == _checksum(number, facts, payload):
        message_id, subject, *rest = facts
        return Item(number, kind_of(number), message_id, subject, payload, *rest)
    return _damaged(number, *facts[2:5])


def _damaged(number: int, epoch: object, first_seq: object, events: object) -> Gone:
    if (
        isinstance(epoch, str)
        and _EPOCH.fullmatch(epoch)
        and isinstance(events, int)
        and 0 <= events <= EVENTS_MAX
        and isinstance(first_seq, int)
        and 0 <= first_seq <= I63_MAX - EVENTS_MAX
    ):
        return Gone(kind_of(number), "corrupt", epoch, first_seq, events)
    return Gone(kind_of(number), "corrupt", "", 0, 0)


def _checksum(number: int, facts: Sequence[object], payload: bytes) -> int:
    return crc32(payload, crc32(f"{number}{tuple(facts)}".encode()))


def size_bytes(connection: sqlite3.Connection, number: int) -> int | None:
    """Bytes of a row's payload; None if there is no such row."""
    with closing(connection.execute(_SIZE, (number,))) as rows:
        found = rows.fetchone()
    return None if found is None else found[0] or 0


def sizes(connection: sqlite3.Connection) -> Generator[tuple[int, int], None, None]:
    """Ids in the order of sending, with the bytes of each payload. Close it when done."""
    with closing(connection.execute(_SIZES)) as rows:
        for number, payload_bytes in rows:
            yield number, payload_bytes or 0


def oldest_unix_ms(connection: sqlite3.Connection, kind: Kind, *, skip: Collection[int]) -> int:
    """When the first of a kind was written; `I63_MAX` if there is none."""
    with closing(connection.execute(_OLDEST, RANGES[kind])) as rows:
        return next((row[2] for row in rows if row[0] not in skip), I63_MAX)


def doomed(
    connection: sqlite3.Connection,
    *,
    excess_bytes: int,
    horizon_unix_ms: int,
    keep: Collection[int],
) -> list[Doomed]:
    """What must leave: what is older than the horizon, and enough for the excess.

    Telemetry before alerts, oldest first, nothing of ``keep``.
    """
    found: list[Doomed] = []
    for kind in ("telemetry", "alert"):
        with closing(connection.execute(_OLDEST, RANGES[kind])) as rows:
            for number, payload_bytes, created_unix_ms, *run in rows:
                aged = created_unix_ms < horizon_unix_ms
                if not aged and excess_bytes <= 0:
                    break
                if number not in keep:
                    cost = cost_bytes(payload_bytes or 0)
                    reason = "age" if aged else "bytes"
                    found.append(Doomed(number, cost, Gone(kind, reason, *run)))
                    excess_bytes -= cost
    return found
