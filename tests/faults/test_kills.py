"""kill -9 of each part under load: nothing is lost, nothing comes twice, the ledger balances."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import pytest

from tests.faults.backend import TABLES, Backend, Process, backend
from tests.services.postgres import cluster

TOTAL, RATE = 40_000, 5000


def kill_now_and_then(victim: Process, running: Backend, *, times: int) -> None:
    """Kill and start again at random moments, each time after something has been stored."""

    def stored() -> int:
        return sum(running.count(table) for table in TABLES)

    def more_than(before: int) -> bool:
        return stored() > before or before >= TOTAL

    for _ in range(times):
        running.wait_for(partial(more_than, stored()))
        time.sleep(random.uniform(0, 1.2))
        victim.kill()
        time.sleep(random.uniform(0, 0.5))
        victim.start()


@pytest.mark.parametrize(
    "victim", ["broker", "emitter", "ingest", "telemetry_writer", "alert_writer"]
)
def test_a_part_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, victim: str) -> None:
    with backend(tmp_path) as running:
        running.start()
        emitter = running.emitter(TOTAL, rate=RATE)
        emitter.start()
        process = {"broker": running.broker, "emitter": emitter, **running.services}[victim]
        kill_now_and_then(process, running, times=3)
        assert emitter.finish()["left"] == 0
        account = running.settle(TOTAL)
        # Killed before its first batch, a life leaves no trace.
        assert account["epochs"] in ((2, 3, 4) if victim == "emitter" else (1,))


def test_postgresql_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    with cluster(fsync=True) as postgres, backend(tmp_path, cluster=postgres) as running:
        running.start()
        emitter = running.emitter(TOTAL, rate=RATE)
        emitter.start()
        for _ in range(2):
            time.sleep(random.uniform(1, 3))
            postgres.kill()
            time.sleep(1)
            postgres.start()
        assert emitter.finish()["left"] == 0
        running.settle(TOTAL)
