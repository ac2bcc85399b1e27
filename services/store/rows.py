"""From canonical messages to rows of the event tables: pure, and fast, for it is done per event.

A row is a tuple in the order of its table's columns. An event's id is that of the wire; its time is
its own, reckoned from the boot, where the message says when that was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

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
from services.store.interface import StoreRefused, Telemetry
from services.store.tables import Table
from transport.messages import (
    CanonicalBatch,
    CanonicalSingle,
    ConnectV1,
    ExecV1,
    ExitV1,
    OpenV1,
)

Row: TypeAlias = tuple[Any, ...]
Texts: TypeAlias = Callable[[tuple[str, ...]], Any]
"""How a store takes a list of texts."""

_HEAD = len(tables.EVENT_HEAD)
_ATTRIBUTES = {"user_name": "user"}
"""Columns that SQL does not let us call what the event calls them."""

_COLUMNS = {attribute: column for column, attribute in _ATTRIBUTES.items()}


@dataclass(frozen=True)
class _Shape:
    """How an event becomes the part of a row that is its own."""

    table: Table
    plain: Callable[[Any], Row]
    """All columns but the last ones, which are lists of texts."""
    texts: Callable[[Any], tuple[tuple[str, ...], ...]] | None


def attributes(table: Table) -> list[str]:
    """The event's attribute for each of the table's own columns."""
    return [_ATTRIBUTES.get(name, name) for name in table.names[_HEAD:]]


def column_of(attribute: str) -> str:
    """The column for an event's attribute: the other way round than `attributes`."""
    return _COLUMNS.get(attribute, attribute)


def _shape(table: Table) -> _Shape:
    names = attributes(table)
    lists = [
        name
        for name, column in zip(names, table.columns[_HEAD:], strict=True)
        if column.kind == "texts"
    ]
    if not lists:
        return _Shape(table, attrgetter(*names), None)
    plain = attrgetter(*names[: -len(lists)])
    return _Shape(table, plain, lambda event: tuple(getattr(event, name) for name in lists))


_SHAPES: dict[type, _Shape] = {
    ExecEvent: _shape(tables.EXEC),
    OpenEvent: _shape(tables.OPEN),
    ConnectEvent: _shape(tables.CONNECT),
    ExitEvent: _shape(tables.EXIT),
    ForkEvent: _shape(tables.FORK),
    SeedEvent: _shape(tables.SEED),
    ListenEvent: _shape(tables.LISTEN),
    FloodEvent: _shape(tables.FLOOD),
}
_TABLES_V1: dict[type, Table] = {
    ExecV1: tables.EXEC,
    OpenV1: tables.OPEN,
    ConnectV1: tables.CONNECT,
    ExitV1: tables.EXIT,
}
_LATER: dict[str, Any] = {"witness": False, "claimed": "", "socket": 0}
"""What version 1 of the messages does not say, where the column is not NULL."""


def event_rows(messages: Iterable[Telemetry], *, texts: Texts) -> dict[str, list[Row]]:
    """Rows of the messages' events, by table.

    Raises:
        StoreRefused: a batch whose events and sequence numbers do not agree.
    """
    found: dict[str, list[Row]] = {table.name: [] for table in tables.EVENT_TABLES}
    for message in messages:
        if isinstance(message, CanonicalBatch):
            _add_batch(found, message, texts)
        else:
            _add_single(found, message, texts)
    return found


def count_rows(message: Telemetry) -> int:
    """Rows that `event_rows` makes of a message."""
    if isinstance(message, CanonicalBatch):
        return len(message.events)
    return 1 if type(message.event) in _TABLES_V1 else 0


def _add_batch(found: dict[str, list[Row]], batch: CanonicalBatch, texts: Texts) -> None:
    span = batch.last_seq - batch.first_seq + 1
    # Before the numbers are written out: a forged span could fill the memory.
    if span != len(batch.events) + len(batch.rejected):
        raise StoreRefused(_disagreement(batch))
    numbers = batch.sequence_numbers()
    if len(numbers) != len(batch.events):
        raise StoreRefused(_disagreement(batch))
    tenant, agent, host, epoch = batch.tenant_id, batch.agent_id, batch.host.hostname, batch.epoch
    boot_ns, received = batch.host.boot_unix_ns, batch.received_at_unix_ms
    for seq, event in zip(numbers, batch.events, strict=True):
        shape = _SHAPES[type(event)]
        ns = event.time_ns
        observed = (boot_ns + ns) // 1_000_000 if boot_ns else batch.observed_at_unix_ms
        # The id as `transport.messages.event_id` makes it; a call would cost as much as the row.
        own = shape.plain(event)
        row = (tenant, agent, host, f"{epoch}-{seq}", observed, received, seq, ns, *own)
        if shape.texts is not None:
            row = (*row, *map(texts, shape.texts(event)))
        found[shape.table.name].append(row)


def _disagreement(batch: CanonicalBatch) -> str:
    return (
        f"batch {batch.batch_id}: {len(batch.events)} events and {len(batch.rejected)} rejected "
        f"ones do not make up the sequence numbers {batch.first_seq} to {batch.last_seq}"
    )


def _add_single(found: dict[str, list[Row]], single: CanonicalSingle, texts: Texts) -> None:
    table = _TABLES_V1.get(type(single.event))
    if table is None:  # a heartbeat
        return
    own = [getattr(single.event, name, _LATER.get(name)) for name in attributes(table)]
    if isinstance(single.event, ExecV1):
        own[-2:] = texts(single.event.argv), texts(())
    found[table.name].append(
        (
            *(single.tenant_id, single.agent_id, single.host.hostname, single.event_id),
            *(single.observed_at_unix_ms, single.received_at_unix_ms, None, None, *own),
        )
    )
