from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from services.store import migrations
from services.store.interface import StoreError
from services.store.migrations import Migration

# A version that was released never changes. When `tables` changes, write a new migration, and give
# version 1 the tables as they were.
DIGESTS = {
    "sqlite": "797b3e2eb729646f",
    "postgres": "82a1b9f0e1da2688",
    "timescale": "57b8ee08639469f7",
}


def digest(migration: Migration) -> str:
    return hashlib.sha256("\n".join(migration.statements).encode()).hexdigest()[:16]


def test_version_1_is_what_it_was() -> None:
    assert {
        "sqlite": digest(migrations.sqlite_migrations()[0]),
        "postgres": digest(migrations.postgres_migrations(partitioned=True)[0]),
        "timescale": digest(migrations.postgres_migrations(partitioned=False)[0]),
    } == DIGESTS


def test_versions_follow_one_another() -> None:
    for steps in (migrations.sqlite_migrations(), migrations.postgres_migrations(partitioned=True)):
        assert [step.version for step in steps] == list(range(1, len(steps) + 1))


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
