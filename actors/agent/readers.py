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
"""What no event hurries waits this long at most, where the responder may act."""
LEISURE_SECS = 0.04
"""The same where nothing may be killed: half as many sweeps, and what is published is late by no
more than the publisher itself takes."""
PAUSE_MIN_SECS = 0.001
PAUSE_PER_KIB_SECS = 0.004
PAUSE_MAX_SECS = 0.008
"""Pause after a sweep that events asked for, where the responder may act on what they tell.

A sweep costs about 0.3 ms however little it finds, for all it touches has left the caches: so an
idle machine is answered at once, and a busy one the later the more each sweep finds."""
_FINAL_SWEEPS_MAX = 8
_ORDINARY_BYTES = 512
"""What an ordinary event takes of its ring, and more."""


def pause_secs(found_bytes: int, *, urgent: bool) -> float:
    """How long to rest after a sweep that found so much; a sensitive open cuts it short.

    Args:
        found_bytes: what the rings held.
        urgent: whether a process may be killed for what the events tell.
    """
    if not urgent:
        return LEISURE_SECS
    return min(PAUSE_MAX_SECS, PAUSE_MIN_SECS + found_bytes / 1024 * PAUSE_PER_KIB_SECS)


class RingClock(Actor):
    """Source of sweeps: when a probe calls, else by a timer.

    Args:
        sensor: the rings.
        sweeps: where the readers take their turns.
        urgent: whether a process may be killed for what the events tell.
    """

    def __init__(self, *, sensor: Sensor, sweeps: Sweeps, urgent: bool = True) -> None:
        self._sensor = sensor
        self._sweeps = sweeps
        self._urgent = urgent
        self._tick_secs = TICK_SECS if urgent else LEISURE_SECS

    async def run(self) -> None:
        """Sweep until told to stop or the recording ends; then once more over every ring."""
        while not self.context.stopping.is_set():
            called = await self._sensor.wait(self._tick_secs, urgent=self._urgent)
            await self._sweeps.finished()
            limits = self._sensor.snapshot()
            if limits is None:
                break
            self._sweeps.begin(limits)
            if called:
                await self._sensor.rest(pause_secs(sum(limits.values()), urgent=self._urgent))
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

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

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
                before = self._sensor.positions()[self._ring]
                events = self._read(turn.limit)
                position = self._sensor.positions()[self._ring]
                batch = EventBatch(
                    self._index,
                    turn.sweep,
                    turn.expected,
                    events,
                    position,
                    self._sensor.read_count,
                    max(0, position - before - _ORDINARY_BYTES * len(events)),
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
