from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.kit import nats_server
from tests.services.detection.redis_server import RedisServer, redis

__all__ = ["nats_server"]


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis(tmp_path / "redis") as server:
        yield server
