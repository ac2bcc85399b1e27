"""Stored telemetry, read back: the events of each life of an agent, as they were published.

The lines of the batches say which sequence numbers there are and when they were received; by that
their rows are found in every table. What is older than version 2 of the schema, and what came as
version 1 of the messages, is left out: its exact times are not stored.
"""

# ruff: noqa: S608 - all that is put into these queries are our own words
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import msgspec

from actors.detection.events import (
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    FloodEvent,
    ForkEvent,
    ListenEvent,
    OpenEvent,
    SeedEvent,
)
from services.store import tables
from services.store.interface import Chunk
from services.store.retention import moment
from services.store.rows import Row, column_of
from services.store.steps import Steps
from services.store.tables import Dialect, Table
from transport.messages import Event, Host

CHUNK_EVENTS = 1000
"""A chunk has at least so many events, unless its agent has no more, and a batch more at most."""
_LINES_MAX = 500
"""Batches of one chunk at most."""
_CHUNKS_AT_ONCE = 16
"""Chunks read at one go: what bounds the memory, and what a connection is worth."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which telemetry, by the time of its reception; ``until`` is excluded."""

    since_unix_ms: int
    until_unix_ms: int
    tenant_id: str | None = None
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """How far it has been read: through an epoch, up to a sequence number."""

    epochs: Sequence[tuple[str, str, str]] = ()
    """Tenant, agent and epoch of those that are left, the one at hand first."""
    after: int = -1
    begun: bool = False

    @property
    def ended(self) -> bool:
        """Whether there is nothing left."""
        return self.begun and not self.epochs


_EPOCHS = """SELECT tenant_id, agent_id, epoch FROM batches
WHERE received_at_unix_ms >= CAST($1 AS bigint) AND received_at_unix_ms < CAST($2 AS bigint)
  AND (CAST($3 AS text) IS NULL OR tenant_id = CAST($3 AS text))
  AND (CAST($4 AS text) IS NULL OR agent_id = CAST($4 AS text))
  AND boot_unix_ns IS NOT NULL AND last_seq >= first_seq AND NOT is_overlap
GROUP BY tenant_id, agent_id, epoch
ORDER BY tenant_id, agent_id, min(received_at_unix_ms), min(observed_at_unix_ms), epoch"""

_LINES = f"""SELECT first_seq, last_seq, accepted, received_at_unix_ms,
  hostname, boot_id, boot_unix_ns
FROM batches
WHERE tenant_id = $1 AND agent_id = $2 AND epoch = $3 AND first_seq > $4
  AND received_at_unix_ms >= $5 AND received_at_unix_ms < $6
  AND boot_unix_ns IS NOT NULL AND last_seq >= first_seq AND NOT is_overlap
ORDER BY first_seq LIMIT {_LINES_MAX}"""

_FIRST, _LAST, _ACCEPTED, _RECEIVED_AT, _HOST = 0, 1, 2, 3, slice(4, None)

_RECEIVED: dict[Dialect, str] = {
    "sqlite": "received_at_unix_ms IN (SELECT value FROM json_each($4))",
    # By the timestamps, which find the partitions; the range helps where nothing was analyzed yet.
    "postgres": "received_at = ANY({all}) AND received_at BETWEEN ({all})[1]"
    " AND ({all})[cardinality({all})]".format(all="CAST($4 AS timestamptz[])"),
}


@dataclass(frozen=True)
class _Reader:
    """How the events of one table are read."""

    query: str
    event: Callable[[Row], Any]


def _reader(kind: type[msgspec.Struct], table: Table, dialect: Dialect) -> _Reader:
    names = [column_of(name) for name in kind.__struct_fields__]
    kinds = {column.name: column.kind for column in table.columns}
    query = (
        f"SELECT {', '.join(names)}, seq FROM {table.name}"
        f" WHERE {_RECEIVED[dialect]} AND tenant_id = $1 AND agent_id = $2"
        " AND seq BETWEEN $5 AND $6 AND substr(event_id, 1, 16) = $3"
    )
    # The dialects differ in what they make of these two kinds.
    truths = [at for at, name in enumerate(names) if kinds[name] == "bool"]
    lists = [at for at, name in enumerate(names) if kinds[name] == "texts"]
    return _Reader(query, _maker(kind, truths if dialect == "sqlite" else [], lists))


def _maker(
    kind: type[msgspec.Struct], truths: Sequence[int], lists: Sequence[int]
) -> Callable[[Row], Any]:
    """From a row, which ends with the sequence number, to the event."""
    if not truths and not lists:
        return lambda row: kind(*row[:-1])

    def make(row: Row) -> Any:
        values = list(row)
        del values[-1]
        for at in truths:
            values[at] = values[at] == 1
        for at in lists:
            texts = values[at]
            values[at] = tuple(_decode_texts(texts) if type(texts) is str else texts)
        return kind(*values)

    return make


_decode_texts: Callable[[str], Any] = msgspec.json.Decoder(list[str]).decode
_KINDS: tuple[tuple[type[msgspec.Struct], Table], ...] = (
    (SeedEvent, tables.SEED),
    (ForkEvent, tables.FORK),
    (ExecEvent, tables.EXEC),
    (ExitEvent, tables.EXIT),
    (OpenEvent, tables.OPEN),
    (ConnectEvent, tables.CONNECT),
    (ListenEvent, tables.LISTEN),
    (FloodEvent, tables.FLOOD),
)
_READERS: dict[Dialect, list[_Reader]] = {
    "sqlite": [_reader(kind, table, "sqlite") for kind, table in _KINDS],
    "postgres": [_reader(kind, table, "postgres") for kind, table in _KINDS],
}


def read_on(wanted: Wanted, place: Place, *, dialect: Dialect) -> Steps[tuple[list[Chunk], Place]]:
    """The next few chunks, and how far it has been read with them."""
    if not place.begun:
        rows = yield (
            _EPOCHS,
            (wanted.since_unix_ms, wanted.until_unix_ms, wanted.tenant_id, wanted.agent_id),
        )
        place = Place([(tenant, agent, epoch) for tenant, agent, epoch in rows], begun=True)
    chunks: list[Chunk] = []
    while not place.ended and len(chunks) < _CHUNKS_AT_ONCE:
        key = place.epochs[0]
        times = (wanted.since_unix_ms, wanted.until_unix_ms)
        lines = yield _LINES, (*key, place.after, *times)
        groups = _grouped(lines)
        for group in groups:
            chunk = yield from _chunk(key, group, dialect=dialect)
            chunks += [chunk] if chunk.events else []
            place = replace(place, after=group[-1][_FIRST])
        if not groups:
            place = Place(place.epochs[1:], begun=True)
    return chunks, place


def _grouped(lines: Sequence[Row]) -> list[list[Row]]:
    """Lines of the chunks they make; what may not be whole yet is left to the next time."""
    groups: list[list[Row]] = []
    count = CHUNK_EVENTS
    for line in lines:
        if count >= CHUNK_EVENTS or line[_HOST] != groups[-1][-1][_HOST]:
            groups.append([])
            count = 0
        groups[-1].append(line)
        count += line[_ACCEPTED]
    if len(groups) > 1 and len(lines) == _LINES_MAX and count < CHUNK_EVENTS:
        groups.pop()
    return groups


def _chunk(key: tuple[str, str, str], lines: Sequence[Row], *, dialect: Dialect) -> Steps[Chunk]:
    """The events of these lines."""
    received: Any = sorted({line[_RECEIVED_AT] for line in lines})
    received = json.dumps(received) if dialect == "sqlite" else [moment(ms) for ms in received]
    last = max(line[_LAST] for line in lines)
    values = (*key, received, lines[0][_FIRST], last)
    found: list[tuple[int, Event]] = []
    for reader in _READERS[dialect]:
        event = reader.event
        rows = yield reader.query, values
        found += [(row[-1], event(row)) for row in rows]
    found.sort(key=itemgetter(0))
    return Chunk(
        *key,
        host=Host(*lines[0][_HOST]),
        events=[event for _, event in found],
        seqs=[seq for seq, _ in found],
    )
