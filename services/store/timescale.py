"""TimescaleDB, where the server has it: hypertables, compression and retention by the extension.

Not run against the extension by our tests, which have none; the SQL is short for that reason, and
of the interface that TimescaleDB has had since 2.0.
"""

from __future__ import annotations

from typing import Any

from services.store.settings import StoreSettings
from services.store.tables import EVENT_TABLES, NEW_IN

EXTENSION = "CREATE EXTENSION IF NOT EXISTS timescaledb"
_INSTALLED = "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"
_AVAILABLE = "SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"
_SUPERUSER = "SELECT current_setting('is_superuser') = 'on'"
_PRELOADED = "SELECT current_setting('shared_preload_libraries') LIKE '%timescaledb%'"


async def usable(connection: Any) -> bool:
    """Whether the extension is in this database, or can be created in it by us.

    Creating it where the server has not preloaded it would end the connection.
    """
    if await connection.fetchval(_INSTALLED):
        return True
    return bool(
        await connection.fetchval(_AVAILABLE)
        and await connection.fetchval(_SUPERUSER)  # others may not read what is preloaded
        and await connection.fetchval(_PRELOADED)
    )


def hypertables(*, found: int = 0) -> list[str]:
    """Turns plain event tables into hypertables that can be compressed.

    Args:
        found: the version of the schema before now, which had made its own ones that already.
    """
    statements = []
    for table in EVENT_TABLES:
        if found >= NEW_IN.get(table.name, 1):
            continue
        statements.append(
            f"SELECT create_hypertable('{table.name}', 'received_at',"
            " chunk_time_interval => INTERVAL '1 day')"
        )
        statements.append(
            f"ALTER TABLE {table.name} SET (timescaledb.compress,"
            " timescaledb.compress_segmentby = 'tenant_id, agent_id',"
            " timescaledb.compress_orderby = 'received_at DESC')"
        )
    return statements


def policies(settings: StoreSettings) -> list[str]:
    """Sets compression and retention to what the configuration says, whatever they were."""
    statements = []
    for table in EVENT_TABLES:
        for kind, days in (
            ("compression", settings.compress_after_days),
            ("retention", settings.retention_days + 1),  # never before the day is over
        ):
            statements.append(f"SELECT remove_{kind}_policy('{table.name}', if_exists => TRUE)")
            statements.append(f"SELECT add_{kind}_policy('{table.name}', INTERVAL '{days} days')")
    return statements
