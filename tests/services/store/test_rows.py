from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from services.store import lines, tables
from services.store.alerts import alert_rows
from services.store.rows import attributes, count_rows, event_rows
from services.store.tables import Table
from tests.services.store.cast import (
    BOOT_NS,
    EPOCH,
    NOW_MS,
    alert,
    batch,
    flood_event,
    invalid,
    listen_event,
    mixed,
    seed_event,
)
from transport.messages import CanonicalBatch, Host, Rejected, encode, event_id

STRUCTS: dict[str, type[msgspec.Struct]] = {
    "exec_events": ExecEvent,
    "open_events": OpenEvent,
    "connect_events": ConnectEvent,
    "exit_events": ExitEvent,
    "fork_events": ForkEvent,
    "seed_events": SeedEvent,
    "listen_events": ListenEvent,
    "flood_events": FloodEvent,
}


@pytest.mark.parametrize("table", tables.EVENT_TABLES, ids=lambda table: table.name)
def test_a_table_has_every_field_of_its_event(table: Table) -> None:
    fields = {field.name for field in msgspec.structs.fields(STRUCTS[table.name])}
    assert set(attributes(table)) == fields - {"time_ns"}


def test_rows_are_as_wide_as_their_tables() -> None:
    events = [*mixed(12), seed_event(), listen_event(), flood_event()]
    found = event_rows([batch(events=events)], texts=list)
    for table in tables.EVENT_TABLES:
        assert {len(row) for row in found[table.name]} == {len(table.names)}
    assert lines.Line._fields == tables.BATCHES.names
    assert len(alert_rows([alert()], texts=list)[0]) == len(tables.ALERTS.names)
    (refused,) = lines.invalid_rows([invalid()])
    assert dict(zip(tables.INVALID.names, refused, strict=True))["size_bytes"] == 12


Batches = st.integers(0, 40).flatmap(
    lambda size: st.tuples(st.just(size), st.sets(st.integers(0, max(0, size - 1)), max_size=size))
)


@given(shape=Batches, first=st.integers(0, (1 << 63) - 100), boot_ns=st.integers(0, (1 << 63) - 1))
def test_each_accepted_event_becomes_one_row_with_its_own_number_and_time(
    shape: tuple[int, set[int]], first: int, boot_ns: int
) -> None:
    size, gone = shape
    gone = gone if size else set()
    events = mixed(size - len(gone))
    message = batch(
        events=events,
        first_seq=first,
        rejected=[Rejected(first + n, "bad") for n in sorted(gone)],
        host=Host(hostname="h", boot_unix_ns=boot_ns),
    )
    rows = [row for found in event_rows([message], texts=list).values() for row in found]
    assert len(rows) == len(events) == count_rows(message)
    kept = [first + n for n in range(size) if n not in gone]
    assert {row[3] for row in rows} == {event_id(EPOCH, seq) for seq in kept}
    times = sorted(row[tables.OBSERVED] for row in rows)
    if boot_ns:
        assert times == sorted((boot_ns + event.time_ns) // 1_000_000 for event in events)
    else:
        assert set(times) <= {message.observed_at_unix_ms}
    assert {row[tables.RECEIVED] for row in rows} <= {NOW_MS}


def test_what_the_wire_delivers_is_shaped_like_what_was_sent() -> None:
    message = batch(events=mixed(12))
    again = msgspec.json.decode(encode(message), type=CanonicalBatch)
    assert event_rows([again], texts=list) == event_rows([message], texts=list)
    assert message.host.boot_unix_ns == BOOT_NS
