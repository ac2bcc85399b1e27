"""TimescaleDB's SQL, as text: the extension itself is not at hand."""

from __future__ import annotations

from services.store import timescale
from services.store.migrations import migrations_of
from services.store.settings import StoreSettings
from services.store.tables import EVENT_TABLES
from tests.services.postgres import Cluster
from tests.services.store.places import PostgresPlace


def test_every_event_table_becomes_a_hypertable() -> None:
    statements = timescale.hypertables()
    for table in EVENT_TABLES:
        assert (
            f"SELECT create_hypertable('{table.name}', 'received_at',"
            " chunk_time_interval => INTERVAL '1 day')" in statements
        )
    compressed = [text for text in statements if "timescaledb.compress," in text]
    assert len(compressed) == len(EVENT_TABLES)


def test_policies_are_those_of_the_configuration() -> None:
    settings = StoreSettings(retention_days=9, compress_after_days=2)
    statements = timescale.policies(settings)
    assert statements[:4] == [
        "SELECT remove_compression_policy('exec_events', if_exists => TRUE)",
        "SELECT add_compression_policy('exec_events', INTERVAL '2 days')",
        "SELECT remove_retention_policy('exec_events', if_exists => TRUE)",
        "SELECT add_retention_policy('exec_events', INTERVAL '10 days')",
    ]
    assert len(statements) == 4 * len(EVENT_TABLES)


def test_the_plain_tables_it_starts_from_are_good_sql(server: Cluster) -> None:
    place = PostgresPlace(server)
    for step in migrations_of("timescale"):
        for statement in step.statements:
            place.change(statement)
    found = place.rows("SELECT relkind FROM pg_class WHERE relname = 'exec_events'")
    assert found == [{"relkind": "r"}]
