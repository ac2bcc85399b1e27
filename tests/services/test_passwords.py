"""Passwords in files: for PostgreSQL and for Redis."""

from pathlib import Path

import pytest

from actors.config import ConfigError
from services.detection.reach import open_reach
from services.passwords import read_password
from services.store import open_store
from services.store.settings import StoreSettings
from tests.services.detection.redis_server import redis
from tests.services.postgres import PASSWORD, USER, cluster
from transport.crossing import open_loop


def written(folder: Path, content: bytes) -> Path:
    path = folder / "password"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"secret", b"secret\n", b"secret\r\nanother\n"])
def test_the_first_line_is_the_password(tmp_path: Path, content: bytes) -> None:
    assert read_password(written(tmp_path, content), "key") == "secret"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "first line is empty"), (b"\nsecret", "is empty"), (b"\xff\xfe", "not a text file")],
)
def test_what_is_no_password_is_named_by_key_and_file(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError, match=f"store.password_file {path}: .*{why}"):
        read_password(path, "store.password_file")


def test_a_missing_file_is_named_by_whoever_needs_it(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    settings = StoreSettings(url="postgresql://u@127.0.0.1/d", password_file=missing)
    with pytest.raises(ConfigError, match=r"store.password_file .*none: No such file"):
        open_store(settings)
    with pytest.raises(ConfigError, match=r"detection.state_password_file .*none: No such file"):
        open_reach("redis://127.0.0.1/0", prefix="x:", password_file=missing)


async def test_postgresql_is_reached_with_it(tmp_path: Path) -> None:
    with cluster() as server:
        url = server.url().replace(f"{USER}:{PASSWORD}@", f"{USER}@")
        file = written(tmp_path, PASSWORD.encode())
        store = open_store(StoreSettings(url=url, password_file=file))
        async with open_loop():
            await store.open()
            await store.close()


async def test_redis_is_reached_with_it(tmp_path: Path) -> None:
    rules = tmp_path / "users.acl"
    rules.write_text("user default off\nuser detection on >secret ~x:* +@all\n")
    with redis(tmp_path / "redis", settings=("--aclfile", str(rules))) as server:
        url = server.url.replace("//", "//detection@")
        reach = open_reach(url, prefix="x:", password_file=written(tmp_path, b"secret\n"))
        async with reach.state.opened():
            assert await reach.state.load([]) == []
