"""Where telemetry and alerts are kept: one interface, SQLite and PostgreSQL behind it."""

from __future__ import annotations

from services.store.interface import Store
from services.store.settings import StoreSettings


def open_store(settings: StoreSettings) -> Store:
    """The store that ``[store]`` names, not yet connected: `Store.open` does that.

    PostgreSQL is reached inside `transport.crossing.open_loop` only.

    Raises:
        ConfigError: the file of its password cannot be used.
    """
    if settings.sqlite_path is not None:
        from services.store.sqlite import SqliteStore  # noqa: PLC0415 - as below

        return SqliteStore(settings)
    # Its driver is not needed, nor perhaps installed, where the embedded store serves.
    from services.store.postgres import PostgresStore  # noqa: PLC0415 - see above

    return PostgresStore(settings)
