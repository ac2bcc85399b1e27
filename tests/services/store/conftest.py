from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.store.interface import Store
from tests.services.postgres import Cluster, cluster
from tests.services.store.places import Place, PostgresPlace, SqlitePlace
from transport import crossing


@pytest.fixture(scope="session")
def server() -> Iterator[Cluster]:
    """One PostgreSQL for all tests; each has databases of its own."""
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "store.db")
    return PostgresPlace(request.getfixturevalue("server"))


@pytest.fixture
async def loop() -> AsyncIterator[None]:
    async with crossing.open_loop():
        yield


@pytest.fixture
async def store(place: Place, loop: None) -> AsyncIterator[Store]:
    """An opened store on the place."""
    opened = place.store()
    await opened.open()
    yield opened
    await opened.close()
