"""Evictions: runs stay few, totals stay exact."""

from __future__ import annotations

from tests.transport.spool_cast import EPOCH
from transport.messages import Evicted
from transport.spool_evictions import RUNS_MAX, TOTALS_MAX, EvictionLog, Gone, Loss

OTHER = "f" * 16


def gone(first: int, events: int = 10, *, epoch: str = EPOCH, reason: str = "bytes") -> Gone:
    return Gone("telemetry", reason, epoch, first, events)


def test_adjacent_runs_of_one_epoch_and_reason_are_one() -> None:
    log = EvictionLog()
    log.add([gone(0), gone(10), gone(30)])
    log.add([gone(40), gone(20)])
    assert log.runs == [Evicted(EPOCH, 0, 49, "bytes")]
    log.add([gone(50, epoch=OTHER), gone(50, reason="age")])
    assert len(log.runs) == 3


def test_batches_without_events_and_alerts_make_no_run() -> None:
    log = EvictionLog()
    log.add([gone(5, events=0), Gone("alert", "age", EPOCH, 0, 0)])
    assert log.runs == []
    assert log.totals == [
        Loss("telemetry", "bytes", EPOCH, 1, 0),
        Loss("alert", "age", EPOCH, 1, 0),
    ]


def test_what_was_told_is_forgotten_but_not_what_grew_since() -> None:
    log = EvictionLog()
    log.add([gone(10), gone(100)])
    told = list(log.runs)
    log.add([gone(20), gone(0), gone(110, reason="age")])
    log.told(told)
    assert log.runs == [
        Evicted(EPOCH, 0, 9, "bytes"),
        Evicted(EPOCH, 20, 29, "bytes"),
        Evicted(EPOCH, 110, 119, "age"),
    ]
    log.told([Evicted(EPOCH, 0, 1000, "bytes"), Evicted(EPOCH, 110, 109, "age")])
    assert log.runs == [Evicted(EPOCH, 110, 119, "age")]


def test_too_many_runs_grow_together_and_every_event_stays_counted() -> None:
    log = EvictionLog()
    starts = [n * 100 for n in range(RUNS_MAX + 1)]
    starts[500] = starts[499] + 15
    log.add([gone(start) for start in starts])
    assert len(log.runs) == RUNS_MAX
    assert Evicted(EPOCH, starts[499], starts[500] + 9, "bytes") in log.runs
    assert log.totals == [Loss("telemetry", "bytes", EPOCH, len(starts), 10 * len(starts))]
    assert log.untold_events == 0


def test_too_many_epochs_lose_their_oldest_run_but_not_its_count() -> None:
    log = EvictionLog()
    for n in range(RUNS_MAX + 2):
        log.add([gone(0, epoch=f"{n:016x}")])
    assert len(log.runs) == RUNS_MAX
    assert log.runs[0].epoch == f"{2:016x}"
    assert log.untold_events == 20
    assert len(log.totals) == TOTALS_MAX
    assert sum(each.events for each in log.totals) == 10 * (RUNS_MAX + 2)
