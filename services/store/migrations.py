"""The versions of the schema: what takes a store from one to the next.

Each store applies what is pending in one transaction, under a lock. A version, once released, never
changes; `tests/services/store/test_migrations.py` holds us to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.version import VERSION
from services.store import schema
from services.store.interface import StoreError

VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL PRIMARY KEY,"
    " program text NOT NULL, applied_at_unix_ms bigint NOT NULL)"
)
PROGRAM = VERSION
"""Written beside each version: which program brought it."""


@dataclass(frozen=True)
class Migration:
    """From the version before to this one."""

    version: int
    statements: Sequence[str]


def sqlite_migrations() -> list[Migration]:
    """All versions of the embedded store."""
    return [Migration(1, schema.version_1_sqlite()), Migration(2, schema.version_2_sqlite())]


def postgres_migrations(*, partitioned: bool) -> list[Migration]:
    """All versions of the store in PostgreSQL."""
    return [
        Migration(1, schema.version_1_postgres(partitioned=partitioned)),
        Migration(2, schema.version_2_postgres(partitioned=partitioned)),
    ]


def pending(found: int, migrations: Sequence[Migration], *, where: str) -> list[Migration]:
    """What is still to be applied to a store of version ``found`` (0: an empty one).

    Raises:
        StoreError: its schema is newer than this program.
    """
    newest = migrations[-1].version
    if found > newest:
        raise StoreError(
            f"{where}: its schema is version {found}, newer than version {newest} of this program "
            f"(Lavender {VERSION}); run the newer program, or another store"
        )
    return [migration for migration in migrations if migration.version > found]
