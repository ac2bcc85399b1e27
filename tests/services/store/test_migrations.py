from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import get_args

import pytest

from services.store import migrations, tables
from services.store.interface import StoreError
from services.store.migrations import Kind, Migration
from tests.services.store.cast import batch, seed_event
from tests.services.store.places import Place, SqlitePlace

# A version that was released never changes. When `tables` changes, write a new one.
KINDS: tuple[Kind, ...] = get_args(Kind)
DIGESTS = {
    "sqlite": ["797b3e2eb729646f", "07074d36092328af", "87a136ba8b60622f"],
    "partitioned": ["82a1b9f0e1da2688", "f989a4092cfda966", "719f55c0aafd1297"],
    "timescale": ["57b8ee08639469f7", "7ea2d03de78f062d", "eb5daf58816d1162"],
}


def digest(migration: Migration) -> str:
    return hashlib.sha256("\n".join(migration.statements).encode()).hexdigest()[:16]


def test_versions_are_what_they_were() -> None:
    found = {kind: [digest(step) for step in migrations.migrations_of(kind)] for kind in KINDS}
    assert found == DIGESTS


def fill_version_1(place: Place) -> None:
    """Make the place a store of version 1, with an event and an alert."""
    if isinstance(place, SqlitePlace):
        steps, more, texts = migrations.migrations_of("sqlite"), {}, "'[]'"
    else:
        steps = migrations.migrations_of("partitioned")
        more, texts = {"observed_at": "now()", "received_at": "now()"}, "'{}'"
    for statement in (migrations.VERSION_TABLE, *steps[0].statements):
        place.change(statement)
    place.change("INSERT INTO schema_version VALUES (1, '0.1', 0)")
    whose = {"tenant_id": "'acme'", "agent_id": "'agent-1'", "hostname": "'h'", "event_id": "'e'"}
    times = {"observed_at_unix_ms": "5", "received_at_unix_ms": "6"}
    insert(place, "exit_events", {**whose, **times, **more, "pid": "7"})
    words = ("alert_id", "rule", "severity", "detail", "event_type", "event_comm", "epoch")
    numbers = ("event_pid", "score", "base_score", "lineage_bonus", "rarity_bonus")
    own = {**dict.fromkeys(words, "'x'"), **dict.fromkeys(numbers, "1"), "techniques": texts}
    own |= {"created_at_unix_ms": "5", "evidence": "'[]'", "sequence_bonus": "0"}
    own |= {"rule_id": "''", "ancestry": "''"}
    insert(place, "alerts", {**whose, **times, **own})


def insert(place: Place, table: str, values: dict[str, str]) -> None:
    names = ", ".join(values)
    place.change(f"INSERT INTO {table} ({names}) VALUES ({', '.join(values.values())})")  # noqa: S608 - ours


async def test_a_store_of_version_1_keeps_what_it_has(place: Place, loop: None) -> None:
    """Its alerts are read as medium ones that fired once; its events are not in the history."""
    fill_version_1(place)
    store = place.store()
    await store.open()
    await store.add_telemetry([batch(0, events=[seed_event()], first_seq=1)])
    chunks = [chunk async for chunk in store.history(since_unix_ms=0, until_unix_ms=1 << 50)]
    assert [chunk.seqs for chunk in chunks] == [[1]]
    await store.close()
    (kept,) = place.rows("SELECT pid, seq, time_ns FROM exit_events")
    assert kept == {"pid": 7, "seq": None, "time_ns": None}
    (row,) = place.rows(
        "SELECT level, lane, count, source, rule_references, processes, last_observed_at_unix_ms,"
        " incident_id, targets FROM alerts"
    )
    assert row == {
        "level": "medium",
        "lane": "page",
        "count": 1,
        "source": "agent",
        "rule_references": [],
        "processes": [],
        "last_observed_at_unix_ms": 5,
        "incident_id": None,
        "targets": [],
    }


def test_versions_follow_one_another() -> None:
    for kind in KINDS:
        versions = [step.version for step in migrations.migrations_of(kind)]
        assert versions == list(range(1, len(versions) + 1))


def test_only_what_is_pending_is_applied() -> None:
    first = Migration(1, ["one"])
    steps = [first, replace(first, version=2), replace(first, version=3)]
    assert migrations.pending(0, steps, where="here") == steps
    assert migrations.pending(2, steps, where="here") == steps[2:]
    assert migrations.pending(3, steps, where="here") == []


def test_a_newer_schema_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(
        StoreError, match=r"here: .* version 2, newer than version 1 .* run the newer"
    ):
        migrations.pending(2, [Migration(1, [])], where="here")


async def test_the_tables_are_what_the_versions_together_make(place: Place, loop: None) -> None:
    store = place.store()
    await store.open()
    await store.close()
    for table in (*tables.EVENT_TABLES, *tables.PLAIN_TABLES):
        found = place.columns(table.name)
        for column in table.columns:
            kind, nullable = found[column.name]
            assert kind in KINDS_OF[column.kind], f"{table.name}.{column.name} is {kind}"
            assert nullable == column.nullable, f"{table.name}.{column.name}"


KINDS_OF = {
    "text": {"TEXT", "text"},
    "int": {"INTEGER", "integer"},
    "big": {"INTEGER", "bigint"},
    "bool": {"INTEGER", "boolean"},
    "json": {"TEXT", "jsonb"},
    "texts": {"TEXT", "ARRAY"},
}


def test_a_check_says_what_the_next_start_does() -> None:
    assert migrations.outlook(3, where="store") == "schema up to date"
    assert migrations.outlook(1, where="store") == (
        "its schema is version 1; the next start brings it to 3"
    )
    assert migrations.outlook(0, where="store").startswith("empty; ")
    with pytest.raises(StoreError, match="newer than version 3"):
        migrations.outlook(4, where="store")
