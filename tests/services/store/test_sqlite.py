from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio

from services.store import open_store
from services.store.interface import Added, StoreError, StoreUnavailable
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from tests.services.store.cast import NOW_MS, batch, mixed
from transport.messages import encode

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> SqliteStore:
    return SqliteStore(StoreSettings(url=f"sqlite:{path}"), busy_secs=0.3)


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - ours
        return found


async def test_the_file_is_its_owners_alone(store: SqliteStore, path: Path) -> None:
    await store.open()
    await store.add_telemetry([batch()])
    for each in path.parent.iterdir():
        assert (each.name, stat.S_IMODE(each.stat().st_mode)) == (each.name, 0o600)
    assert {each.suffix for each in path.parent.iterdir()} == {".db", ".db-wal", ".db-shm"}
    await store.close()


def test_the_settings_choose_the_store(path: Path) -> None:
    assert isinstance(open_store(StoreSettings(url=f"sqlite:{path}")), SqliteStore)


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "store.db"
    with pytest.raises(StoreError, match=r"no/store\.db: No such file"):
        await SqliteStore(StoreSettings(url=f"sqlite:{missing}")).open()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough" * 99, b"SQLite format 3\0" * 500]
)
async def test_a_damaged_file_is_reported_and_left_as_it_is(
    store: SqliteStore, path: Path, content: bytes
) -> None:
    path.write_bytes(content)  # noqa: ASYNC240 - a test may wait for its disk
    with pytest.raises(StoreError, match=r"store\.db: .*; set the file aside") as caught:
        await store.open()
    assert type(caught.value) is StoreError
    assert path.read_bytes() == content  # noqa: ASYNC240 - see above


def overwrite_all_but_the_first_page(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


async def test_damage_beyond_the_first_page_is_reported_when_it_is_met(
    store: SqliteStore, path: Path
) -> None:
    await store.open()
    await store.add_telemetry([batch(number, events=mixed(100)) for number in range(20)])
    await store.close()
    overwrite_all_but_the_first_page(path)
    with pytest.raises(StoreError, match="set the file aside"):
        await store.open()


async def test_a_full_disk_is_waited_for(store: SqliteStore, path: Path) -> None:
    await store.open()
    await store.add_telemetry([batch(0)])
    assert store._connection is not None
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = batch(1, events=mixed(490), first_seq=10)
    with pytest.raises(StoreUnavailable, match="full"):
        await store.add_telemetry([large])
    assert count(path, "batches") == 1
    assert await store.add_telemetry([large]) == Added(messages=1, rows=490)
    await store.close()


async def test_events_are_counted_per_minute(store: SqliteStore, path: Path) -> None:
    await store.open()
    minute = NOW_MS // 60_000 * 60_000
    for number, received in enumerate((minute, minute + 59_999, minute + 60_000)):
        message = batch(number, events=mixed(6), first_seq=6 * number, received_at_unix_ms=received)
        await store.add_telemetry([message, message])
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT minute_unix_ms - ?, type, count FROM event_counts ORDER BY 1, 2", (minute,)
        ).fetchall()
    types = [("connect", 1), ("exec", 1), ("exit", 1), ("fork", 1), ("open", 2)]
    assert found == [
        *[(0, kind, 2 * n) for kind, n in types],
        *[(60_000, kind, n) for kind, n in types],
    ]
    await store.open()
    await store.retain(minute + 40 * 86_400_000)
    await store.close()
    assert count(path, "event_counts") == 0


async def test_retention_goes_on_until_nothing_old_is_left(store: SqliteStore, path: Path) -> None:
    await store.open()
    await store.add_telemetry([batch(n, events=mixed(500), first_seq=500 * n) for n in range(40)])
    assert count(path, "open_events") > 5000
    await store.retain(NOW_MS + 40 * 86_400_000)
    await store.close()
    assert [count(path, table) for table in ("open_events", "exit_events", "batches")] == [0, 0, 0]


_ENDLESS = """
import sys, msgspec, trio
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from transport.messages import CanonicalBatch

async def main(path, lines):
    store = SqliteStore(StoreSettings(url=f"sqlite:{path}"))
    await store.open()
    for line in lines:
        await store.add_telemetry([msgspec.json.decode(line, type=CanonicalBatch)])
        print("acked", flush=True)

trio.run(main, sys.argv[1], sys.stdin.buffer.read().splitlines())
"""


def test_what_was_acked_outlives_a_killed_writer(store: SqliteStore, path: Path) -> None:
    messages = [batch(n, events=mixed(200), first_seq=200 * n) for n in range(300)]
    for acks in (1, 4, 9):
        with subprocess.Popen(
            [sys.executable, "-c", _ENDLESS, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write(b"\n".join(map(encode, messages)))
            writer.stdin.close()
            for _ in range(acks):
                assert writer.stdout.readline() == b"acked\n"
            writer.send_signal(signal.SIGKILL)
        lines = count(path, "batches")
        assert lines >= acks
        stored = sum(
            count(path, f"{t}_events") for t in ("exec", "open", "connect", "exit", "fork")
        )
        assert stored == 200 * lines

    async def again() -> Added:
        await store.open()
        added = await store.add_telemetry(messages)
        await store.close()
        return added

    assert trio.run(again).duplicates == lines
