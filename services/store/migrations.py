"""The versions of the schema: what takes a store from one to the next.

Each store applies what is pending in one transaction, under a lock. A version is a file of SQL for
each kind of store, ``versions/NNNN.KIND.sql``, with a semicolon at the end of each statement's last
line. Once released, it never changes; `tests/services/store/test_migrations.py` holds us to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from actors.version import VERSION
from services.store.interface import StoreError
from services.store.steps import Steps
from services.store.tables import Dialect

VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL PRIMARY KEY,"
    " program text NOT NULL, applied_at_unix_ms bigint NOT NULL)"
)
_IS_THERE: dict[Dialect, str] = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE name = 'schema_version'",
    "postgres": "SELECT count(*) FROM pg_class WHERE oid = to_regclass('schema_version')",
}
_FOLDER = Path(__file__).parent / "versions"
Kind: TypeAlias = Literal["sqlite", "partitioned", "timescale"]
"""SQLite; PostgreSQL whose event tables it partitions itself; PostgreSQL with TimescaleDB."""
PROGRAM = VERSION
"""Written beside each version: which program brought it."""


@dataclass(frozen=True)
class Migration:
    """From the version before to this one."""

    version: int
    statements: Sequence[str]


def migrations_of(kind: Kind) -> list[Migration]:
    """All versions of a kind of store, oldest first."""
    files = sorted(_FOLDER.glob(f"*.{kind}.sql"))
    return [Migration(int(file.name.partition(".")[0]), _statements(file)) for file in files]


def _statements(file: Path) -> list[str]:
    return file.read_text().removesuffix(";\n").split(";\n")


def read_version(dialect: Dialect) -> Steps[int]:
    """As `Store.schema_version`."""
    ((there,),) = yield _IS_THERE[dialect], ()
    if not there:
        return 0
    ((found,),) = yield "SELECT coalesce(max(version), 0) FROM schema_version", ()
    return int(found)


def outlook(found: int, *, where: str) -> str:
    """What becomes of a store of this version at the next start, in words.

    Raises:
        StoreError: its schema is newer than this program.
    """
    steps = migrations_of("sqlite")  # the versions of all kinds have the same numbers
    if not pending(found, steps, where=where):
        return "schema up to date"
    if not found:
        return "empty; its tables are made at the first start"
    return f"its schema is version {found}; the next start brings it to {steps[-1].version}"


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
