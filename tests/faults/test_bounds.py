"""What is full, slow or set wrong: counted where it cannot be kept, stored once where it can."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.backend import TABLES, Backend, backend, tool


def stored(running: Backend, agent: str = "web-1") -> int:
    return sum(running.count(table, agent=agent) for table in TABLES)


def test_a_spool_that_reaches_its_bound_counts_what_it_gives_up(tmp_path: Path) -> None:
    with backend(tmp_path) as running:
        emitter = running.emitter(30_000, rate=6000, spool_bytes=1 << 20, linger=60)
        emitter.start()
        time.sleep(6)  # the spool fills while nobody takes anything
        running.start()
        assert emitter.finish()["left"] == 0
        running.wait_for(lambda: stored(running) and not running.account()["problems"])
        account = running.account()
        assert account["evicted"]["bytes"] > 10_000
        assert account["spooled"] == 30_000
        assert account["stored"] == stored(running) == 30_000 - account["evicted"]["bytes"]
        numbers = running.numbers()
        assert len(numbers) == len(set(numbers)) == account["stored"]
        # Alerts leave last: all of them came.
        assert account["alerts_stored"] == account["alerts_raised"] == 60


def test_a_store_that_is_locked_stops_the_acks_and_not_the_processes(tmp_path: Path) -> None:
    with backend(tmp_path) as running:
        running.start()
        running.wait_for(lambda: running.rows("SELECT * FROM schema_version"))
        emitter = running.emitter(20_000, rate=5000)
        lock = sqlite3.connect(running.database, isolation_level=None, timeout=30)
        lock.execute("BEGIN EXCLUSIVE")
        emitter.start()
        assert emitter.finish()["left"] == 0
        time.sleep(35)  # longer than the ack wait
        lock.execute("ROLLBACK")
        lock.close()
        running.settle(20_000)
        assert all(each.running.poll() is None for each in running.services.values())
        assert "store is away" in running.services["telemetry_writer"].log()


def test_a_clock_that_is_set_back_and_forward_changes_nothing(tmp_path: Path) -> None:
    with backend(tmp_path) as running:
        running.start()
        emitter = running.emitter(10_000, rate=3000, clock_jumps=True)
        emitter.start()
        assert emitter.finish()["left"] == 0
        running.settle(10_000)


def test_a_flood_beside_a_quiet_agent_does_not_delay_it(tmp_path: Path) -> None:
    limits = "agent_events_per_sec = 2000\nagent_burst_events = 2000"
    with backend(tmp_path, ingest=limits) as running:
        running.start()
        loud = running.emitter(40_000, rate=20_000, agent="loud")
        loud.start()
        time.sleep(1)
        quiet = running.emitter(100, rate=50, agent="quiet")
        quiet.start()
        assert quiet.finish()["left"] == 0
        running.wait_for(lambda: stored(running, "quiet") == 100, within_secs=5)
        assert stored(running, "loud") < 30_000
        loud.finish()
        running.settle(40_000, agent="loud")
        running.settle(100, agent="quiet")


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    folder.mkdir()
    size = f"size={megabytes}m"
    tool("mount", "-t", "tmpfs", "-o", size, "tmpfs", folder)
    try:
        yield folder
    finally:
        tool("umount", "-l", folder)


def test_a_broker_out_of_disk_loses_nothing(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", megabytes=10) as disk,
        backend(tmp_path, store_dir=disk / "js") as running,
    ):
        running.start()
        emitter = running.emitter(60_000, rate=10_000)
        emitter.start()
        time.sleep(12)
        assert emitter.running.poll() is None, "the disk was never full"
        tool("mount", "-o", "remount,size=200m", disk)
        running.broker.kill()  # it gives JetStream up when its disk is full
        running.broker.start()
        assert emitter.finish()["left"] == 0
        running.settle(60_000)
