import copy
from functools import partial
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing

from actors.agent.default_topology import DEFAULT_TOPOLOGY
from actors.agent.messages import EventBatch
from actors.agent.readers import (
    LEISURE_SECS,
    PAUSE_MAX_SECS,
    PAUSE_MIN_SECS,
    TICK_SECS,
    ReaderOptions,
    RingClock,
    RingReader,
    pause_secs,
    ring_problems,
)
from actors.agent.sensor import RING_NAMES, Sensor
from actors.agent.sweeps import Sweeps
from actors.runtime import ChildSpec, Supervisor, Topology
from actors.runtime.supervisor import End
from actors.runtime.testing import Probe, run_actor
from bpf.errors import RecordError
from tests.agent.cast import Script, fork

FORK, EXEC, EXIT, OPEN, CONN, *_ = RING_NAMES


class ClumsyAtTheEnd(RingReader):
    """Its first instance to be given a final turn crashes with it."""

    crashes = 0

    async def run(self) -> None:
        turn = await self._sweeps.next(self._ring)
        if turn is not None and turn.final and not ClumsyAtTheEnd.crashes:
            ClumsyAtTheEnd.crashes += 1
            self._sweeps.finish(self._ring)
            raise ValueError("a bug")
        await super().run()


def rings(
    sensor: Sensor, seen: list[EventBatch], *, reader: type[RingReader] = RingReader
) -> Topology:
    """A clock and a reader of each ring, that tell a probe."""
    sweeps = Sweeps()
    readers = [
        ChildSpec(
            name=ring.lower(),
            factory=partial(reader, ReaderOptions(ring=ring), sensor=sensor, sweeps=sweeps),
            emits=(EventBatch,),
            to=("probe",),
            restart="transient",
        )
        for ring in RING_NAMES
    ]
    clock = ChildSpec(
        name="clock",
        factory=lambda: RingClock(sensor=sensor, sweeps=sweeps),
        restart="transient",
    )
    probe = ChildSpec(name="probe", factory=lambda: Probe(seen), accepts=(object,))
    return Topology(name="test", children=(clock, *readers, probe))


async def run_rings(
    sensor: Sensor, *, reader: type[RingReader] = RingReader
) -> tuple[Supervisor, End, list[EventBatch]]:
    """Run them for a second, then drain."""
    seen: list[EventBatch] = []
    supervisor = Supervisor(rings(sensor, seen, reader=reader))
    ends = []

    async def run() -> None:
        ends.append(await supervisor.run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(1)
        supervisor.drain()
    return supervisor, ends[0], seen


def told(seen: list[EventBatch]) -> list[tuple[int, int, int]]:
    """(sweep, ring, events) of every batch that has some."""
    return [(batch.sweep, batch.ring, len(batch)) for batch in seen if batch.events]


async def test_each_sweep_reaches_the_correlator_whole_before_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sensor = Script({FORK: [fork(1)], EXEC: [fork(2), fork(3)]}, {OPEN: [fork(4)]})
    _, end, seen = await run_rings(sensor)
    assert end is End.DRAINED
    assert sorted(told(seen)) == [(1, 0, 1), (1, 1, 2), (2, 3, 1)]
    assert [batch.sweep for batch in seen] == sorted(batch.sweep for batch in seen)
    assert [batch.expected for batch in seen[:3]] == [2, 2, 1]


async def test_a_drain_ends_with_one_sweep_over_every_ring(
    autojump_clock: trio.testing.MockClock,
) -> None:
    _, end, seen = await run_rings(Script())
    assert end is End.DRAINED
    assert sorted(batch.ring for batch in seen) == list(range(len(RING_NAMES)))
    assert {batch.expected for batch in seen} == {len(RING_NAMES)}


async def test_a_rings_space_is_given_back_after_its_batch_was_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sensor = Script({EXEC: [fork(1)]})
    await run_rings(sensor)
    assert sensor.commits[0] == EXEC


async def test_corrupt_records_are_skipped_and_logged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sensor = Script({FORK: [fork(1)], EXEC: RecordError("of 3 bytes")}, {EXEC: [fork(2)]})
    with structlog.testing.capture_logs() as logs:
        supervisor, end, seen = await run_rings(sensor)
    assert end is End.DRAINED
    assert sorted(told(seen)) == [(1, 0, 1), (2, 1, 1)]
    assert [batch.expected for batch in seen if batch.sweep == 1] == [2, 2]
    assert supervisor.statistics()["exec_events"].crashes == 0
    skipped = [line for line in logs if line["event"] == "corrupt records skipped"]
    assert [(line["ring"], line["why"]) for line in skipped] == [(EXEC, "of 3 bytes")]


async def test_a_crashed_reader_does_not_hold_up_the_clock(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sensor = Script({FORK: [fork(1)], EXEC: ValueError("a bug")}, {OPEN: [fork(2)]})
    supervisor, end, seen = await run_rings(sensor)
    assert end is End.DRAINED
    assert supervisor.statistics()["exec_events"].restarts == 1
    assert [(ring, events) for _, ring, events in told(seen)] == [(0, 1), (3, 1)]


async def test_a_reader_that_crashes_in_the_final_sweep_does_not_hold_up_the_drain(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ClumsyAtTheEnd.crashes = 0
    _, end, _ = await run_rings(Script(), reader=ClumsyAtTheEnd)
    assert ClumsyAtTheEnd.crashes == 1
    assert end is End.DRAINED


async def test_a_clock_that_crashed_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    sensor = Script({FORK: [fork(1)]}, OSError("of the map"), {FORK: [fork(2)]})
    supervisor, end, seen = await run_rings(sensor)
    assert end is End.DRAINED
    assert supervisor.statistics()["clock"].restarts == 1
    assert len(told(seen)) == 2


async def test_a_recording_that_ends_ends_all(autojump_clock: trio.testing.MockClock) -> None:
    class Ending(Script):
        def snapshot(self) -> Any:
            return super().snapshot() if self.sweeps else None

    seen: list[EventBatch] = []
    supervisor = Supervisor(rings(Ending({FORK: [fork(1)]}), seen))
    with trio.fail_after(5):
        assert await supervisor.run() is End.FINISHED
    assert told(seen) == [(1, 0, 1)]


class Hurried(Script):
    """A sensor whose probes call all the time; it notes how it is waited for."""

    def __init__(self, *sweeps: Any) -> None:
        super().__init__(*sweeps)
        self.waits: list[bool] = []
        self.pauses: list[float] = []

    async def wait(self, tick_secs: float, *, urgent: bool) -> bool:
        self.waits.append(urgent)
        await trio.sleep(tick_secs)
        return bool(self.sweeps)

    async def rest(self, pause_secs: float) -> None:
        self.pauses.append(pause_secs)
        await trio.sleep(pause_secs)


@pytest.mark.parametrize("urgent", [False, True])
async def test_only_where_a_process_may_be_killed_do_events_hurry_the_clock(
    autojump_clock: trio.testing.MockClock, *, urgent: bool
) -> None:
    sensor = Hurried({EXEC: [fork(1)]}, {EXEC: [fork(2)]}, {EXEC: [fork(3)]})
    clock = RingClock(sensor=sensor, sweeps=Sweeps(), urgent=urgent)
    async with run_actor(clock), trio.open_nursery() as nursery:
        for ring in RING_NAMES:
            nursery.start_soon(empty, clock, ring)
        await trio.sleep(1)
        clock.context.stopping.set()
    assert set(sensor.waits) == {urgent}
    assert len(sensor.pauses) == 3
    assert all((pause < TICK_SECS) is urgent for pause in sensor.pauses)


async def empty(clock: RingClock, ring: str) -> None:
    """A reader that only takes its turns."""
    while (turn := await clock._sweeps.next(ring)) is not None:
        clock._sensor.commit(ring)
        clock._sweeps.finish(ring)
        assert turn.limit in (0, 1)


def test_the_more_a_sweep_finds_the_longer_the_pause_within_bounds() -> None:
    pauses = [pause_secs(size, urgent=True) for size in (0, 400, 800, 1600, 1 << 20)]
    assert pauses == sorted(set(pauses))
    assert (pauses[0], pauses[-1]) == (PAUSE_MIN_SECS, PAUSE_MAX_SECS)
    assert {pause_secs(size, urgent=False) for size in (0, 1 << 20)} == {LEISURE_SECS}


# Topologies whose sweeps could not go round


def actors() -> dict[str, Any]:
    table: dict[str, Any] = copy.deepcopy(DEFAULT_TOPOLOGY["agent"]["actors"])
    return table


def problems(table: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in ring_problems(table)]


def test_the_default_topologys_sweeps_go_round() -> None:
    assert problems(actors()) == []


def test_every_ring_needs_a_reader() -> None:
    table = actors()
    del table["open_reader"]
    assert problems(table) == [
        "topology.agent.actors = 0 readers of OPEN_EVENTS: each ring needs exactly one ring_reader"
    ]


def test_no_ring_has_two_readers() -> None:
    table = actors()
    table["another"] = table["open_reader"]
    assert "2 readers of OPEN_EVENTS" in problems(table)[0]


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_one_clock(count: int) -> None:
    table = actors()
    clock = table.pop("ring_clock")
    table.update({f"clock_{number}": clock for number in range(count)})
    assert f"{count} ring_clocks" in problems(table)[0]


@pytest.mark.parametrize("name", ["ring_clock", "fork_reader", "heartbeat"])
def test_a_source_that_ends_with_its_recording_is_not_started_again(name: str) -> None:
    table = actors()
    table[name]["restart"] = "permanent"
    assert problems(table) == [
        f"topology.agent.actors.{name}.restart = 'permanent': should be 'transient'"
    ]


@pytest.mark.parametrize("name", ["ring_clock", "fork_reader"])
def test_what_the_sweeps_wait_for_comes_back_after_a_crash(name: str) -> None:
    table = actors()
    table[name]["restart"] = "temporary"
    assert len(problems(table)) == 1


def test_a_ring_that_does_not_exist_has_no_reader() -> None:
    with pytest.raises(ValueError, match="should be one of FORK_EVENTS, EXEC_EVENTS"):
        ReaderOptions(ring="exec_events")
