"""The actors that empty the rings: a clock that starts sweeps, and one reader for each ring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from actors.agent.messages import EventBatch
from actors.agent.sensor import RING_NAMES, Sensor
from actors.agent.sweeps import Sweeps
from actors.detection.events import AnyEvent
from actors.runtime import Actor, Problem
from bpf.errors import RecordError

TICK_SECS = 0.02
"""What no event hurries waits this long at most."""
GAP_FIRST_SECS = 0.0005
GAP_MAX_SECS = 0.008
"""Pause between two sweeps that events asked for. It doubles up to this while they keep coming: a
sweep costs about 0.2 ms however little it finds, so a busy machine gets 120 a second, and an idle
one is answered at once. A sensitive open cuts it short."""
_FINAL_SWEEPS_MAX = 8


class RingClock(Actor):
    """Source of sweeps: when a probe calls, else by a timer.

    Args:
        sensor: the rings.
        sweeps: where the readers take their turns.
    """

    def __init__(self, *, sensor: Sensor, sweeps: Sweeps) -> None:
        self._sensor = sensor
        self._sweeps = sweeps

    async def run(self) -> None:
        """Sweep until told to stop or the recording ends; then once more over every ring."""
        gap = 0.0
        while not self.context.stopping.is_set():
            called = await self._sensor.wait(TICK_SECS)
            limits = self._sensor.snapshot()
            if limits is None:
                break
            await self._sweeps.run(limits)
            gap = min(max(2 * gap, GAP_FIRST_SECS), GAP_MAX_SECS) if called else 0.0
            if gap:
                await self._sensor.rest(gap)
        await self._drain()

    async def _drain(self) -> None:
        """Empty what the rings hold now; the probes go on filling them, hence the bound."""
        for _ in range(_FINAL_SWEEPS_MAX):
            limits = self._sensor.snapshot()
            if not limits:
                break
            await self._sweeps.run(limits)
        await self._sweeps.run(dict.fromkeys(RING_NAMES, 0), final=True)


def _known_ring(name: str) -> str:
    if name not in RING_NAMES:
        raise ValueError(f"should be one of {', '.join(RING_NAMES)}")
    return name


class ReaderOptions(BaseModel):
    """``options = { ring = "EXEC_EVENTS" }``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ring: Annotated[str, AfterValidator(_known_ring)]


def ring_problems(actors: Mapping[str, Any]) -> Iterator[Problem]:
    """What keeps the sweeps of these actors from going round.

    A sweep waits for a reader of each ring, so each needs one, and only one. Readers and clock
    end by themselves, and must come back after a crash: without one of them nothing goes on.

    Args:
        actors: the valid table `[topology.<name>.actors]`.
    """
    key = "topology.agent.actors"
    readers = [actor["options"]["ring"] for actor in actors.values() if _is(actor, "ring_reader")]
    for ring in RING_NAMES:
        if readers.count(ring) != 1:
            found = f"{readers.count(ring)} readers of {ring}"
            yield Problem(key, found, "each ring needs exactly one ring_reader")
    clocks = sum(_is(actor, "ring_clock") for actor in actors.values())
    if clocks != 1:
        yield Problem(key, f"{clocks} ring_clocks", "there must be exactly one")
    for name, actor in actors.items():
        restart = actor.get("restart", "permanent")
        if (_is(actor, "ring_reader") or _is(actor, "ring_clock")) and restart != "transient":
            yield Problem(f"{key}.{name}.restart", repr(restart), "should be 'transient'")
        if _is(actor, "heartbeat") and restart == "permanent":
            yield Problem(f"{key}.{name}.restart", repr(restart), "should be 'transient'")


def _is(actor: Mapping[str, Any], kind: str) -> bool:
    return bool(actor["kind"] == kind)


class RingReader(Actor):
    """Reader of one ring: decodes its turn's records and tells them as one batch.

    A ring's space is given back only after the batch was told.

    Args:
        options: which ring.
        sensor: the rings.
        sweeps: where it takes its turns.
    """

    emits = (EventBatch,)

    def __init__(self, options: ReaderOptions, *, sensor: Sensor, sweeps: Sweeps) -> None:
        self._ring = options.ring
        self._index = RING_NAMES.index(options.ring)
        self._sensor = sensor
        self._sweeps = sweeps

    async def run(self) -> None:
        """Take turns until the final one."""
        while (turn := await self._sweeps.next(self._ring)) is not None:
            try:
                events = self._read(turn.limit)
                batch = EventBatch(
                    self._index,
                    turn.sweep,
                    turn.expected,
                    events,
                    self._sensor.positions()[self._ring],
                    self._sensor.read_count,
                )
                if not self.context.tell_nowait(batch):
                    await self.context.tell(batch)
                self._sensor.commit(self._ring)
            finally:
                self._sweeps.finish(self._ring)

    def _read(self, limit: int) -> Sequence[AnyEvent]:
        try:
            return self._sensor.read(self._ring, limit)
        except RecordError as error:
            self.context.log.exception("corrupt records skipped", ring=self._ring, why=str(error))
            return []
