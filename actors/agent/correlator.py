"""The correlator: owner of per-process state. It puts the rings' events in order and detects."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import trio

from actors.agent.known import Known
from actors.agent.messages import (
    Activity,
    AlertBatch,
    EventBatch,
    EventLog,
    StatisticsRequest,
    Telemetry,
)
from actors.agent.sensor import RING_NAMES, Sensor
from actors.detection import snapshots
from actors.detection.alerts import Alert
from actors.detection.engine import Engine, Traced
from actors.detection.events import AnyEvent, ConnectEvent, ExecEvent
from actors.detection.names import NameList
from actors.detection.ruleset import RuleSet
from actors.rulefiles import NewRules
from actors.runtime import Actor

_BY_TIME = attrgetter("time_ns")
_BY_RING = attrgetter("ring")


class Correlator(Actor):
    """Merges each sweep by kernel time, feeds the engine and tells what came of it.

    A fresh instance, after a crash, begins with the processes that the one before knew.

    Args:
        sensor: for the processes at the start, and to ignore some.
        known: what the instance before knew.
        rules: what to look for at first.
        record: tell the events to a recorder too.
        show: tell executions and connections to a console.
        publish: tell everything to a publisher.
    """

    accepts = (EventBatch, NewRules, StatisticsRequest)
    emits = (AlertBatch, Activity, EventLog, Telemetry)

    def __init__(  # noqa: PLR0913 - what it works with, by name
        self,
        *,
        sensor: Sensor,
        known: Known,
        rules: Callable[[], RuleSet],
        record: bool,
        show: bool,
        publish: bool = False,
    ) -> None:
        self._sensor = sensor
        self._known = known
        self._record = record
        self._show = show
        self._publish = publish
        self._engine = Engine(rules(), hostname=sensor.hostname)
        ignored = self._engine.rules.settings.ignored_comms
        self._ignored = NameList(ignored) if ignored else None
        self._parts: list[EventBatch] = []

    async def start(self) -> None:
        """Learn the processes that run already."""
        await super().start()
        self._engine.process_batch(self._known.events() or self._sensor.seeds())
        self._known.table = self._engine.table

    async def handle(self, message: EventBatch | NewRules | StatisticsRequest) -> Any:
        """Collect a sweep's batches and process them when all are there."""
        if isinstance(message, StatisticsRequest):
            await trio.lowlevel.checkpoint()
            return self._engine.statistics()
        if isinstance(message, NewRules):
            await trio.lowlevel.checkpoint()
            taken, hostname = snapshots.take(self._engine), self._sensor.hostname
            self._engine = snapshots.restore(message.rules, taken, hostname=hostname)
            self._known.table = self._engine.table
            return None
        if self._parts and message.sweep != self._parts[0].sweep:
            await self._process()  # a reader crashed and its part will not come
        self._parts.append(message)
        if len(self._parts) == message.expected:
            await self._process()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        return None

    async def stop(self) -> None:
        """Process what a drain left incomplete."""
        await self._process()
        await super().stop()

    async def _process(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        parts, self._parts = self._parts, []
        parts.sort(key=_BY_RING)
        events: list[AnyEvent] = list(chain.from_iterable(part.events for part in parts))
        if not events:
            return
        events.sort(key=_BY_TIME)
        entries: list[Traced] = []
        wanted = entries if self._show or self._publish else None
        alerts = self._engine.process_batch(events, traced=wanted)
        if self._ignored is not None:
            self._ignore(events, self._ignored)
        if alerts:
            await self._tell(AlertBatch(alerts))
        weight = sum(part.weight for part in parts)
        if self._publish:
            await self._tell(self._telemetry(events, alerts, entries, parts, weight))
        if self._show and entries:
            await self._tell(Activity(entries, weight))
        if self._record:
            await self._tell(EventLog(events, weight))

    async def _tell(self, message: AlertBatch | Activity | EventLog | Telemetry) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.context.tell_nowait(message):  # which most often spares a task switch
            await self.context.tell(message)

    def _telemetry(
        self,
        events: list[AnyEvent],
        alerts: list[Alert],
        entries: list[Traced],
        parts: list[EventBatch],
        weight: int,
    ) -> Telemetry:
        """The sweep as it leaves the agent: executions and connections know their lineage."""
        lineages = iter(entries)
        named = [
            msgspec.structs.replace(event, ancestry=next(lineages)[1])
            if type(event) is ExecEvent or type(event) is ConnectEvent
            else event
            for event in events
        ]
        positions = {RING_NAMES[part.ring]: part.position for part in parts}
        read = max(part.read for part in parts)
        return Telemetry(named, alerts, positions, read, weight, self._engine.cuts)

    def _ignore(self, events: list[AnyEvent], ignored: NameList) -> None:
        """Have the kernel ignore the processes that run an ignored program by now."""
        find = self._engine.table.get
        for event in events:
            if type(event) is ExecEvent and not event.error:
                process = find((event.pid, event.start_ns))
                if process is not None and ignored.trusts(process.program):
                    self._sensor.ignore(event)
