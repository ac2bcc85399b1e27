"""The heartbeat: a status record with every counter there is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec
import trio

from actors import notify
from actors.agent.confinement import Confinement
from actors.agent.messages import StatisticsRequest, Status
from actors.agent.sensor import Sensor
from actors.runtime import Actor, ActorStatistics, AskError, UndeclaredMessageError
from actors.version import VERSION

_ANSWER_WITHIN_SECS = 1.0
BEATS_MISSED = 4
"""An agent that says nothing for this many beats is stuck."""


class Heartbeat(Actor):
    """Periodic source of status records, which also tells systemd that the agent is not stuck.

    Args:
        sensor: for the probes' counters.
        agent_id: this endpoint's name.
        interval_secs: between two records.
        confinement: what holds this process.
    """

    emits = (Status, StatisticsRequest)

    def __init__(
        self,
        *,
        sensor: Sensor,
        agent_id: str,
        interval_secs: float,
        confinement: Confinement | None = None,
    ) -> None:
        self._sensor = sensor
        self._confinement = confinement or Confinement()
        self._agent_id = agent_id
        self._begin = time.monotonic()
        self._statistics: Mapping[str, ActorStatistics] = {}
        self.tick_secs = interval_secs

    async def run(self) -> None:
        """Tick; in a replay there is no time to keep."""
        if self._sensor.live:
            await super().run()
        else:
            await trio.lowlevel.checkpoint()

    async def tick(self) -> None:
        """Tell one record."""
        before, self._statistics = self._statistics, self.context.statistics()
        record = await self._record()
        await self.context.tell(Status(record))
        if "unavailable" not in record["detection"] or not _stuck(before, self._statistics):
            notify.alive()

    async def _record(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        try:
            engine = await self.context.ask(StatisticsRequest(), within_secs=_ANSWER_WITHIN_SECS)
            detection = msgspec.to_builtins(engine)
        except (AskError, UndeclaredMessageError) as error:  # no answer, or nobody to ask
            detection = {"unavailable": str(error)}
        return {
            "agent_id": self._agent_id,
            "version": VERSION,
            "uptime_secs": round(time.monotonic() - self._begin, 3),
            "confinement": self._confinement.status(),
            "probes": self._sensor.counters(),
            "detection": detection,
            "actors": {name: asdict(each) for name, each in self.context.statistics().items()},
        }


def _stuck(before: Mapping[str, ActorStatistics], now: Mapping[str, ActorStatistics]) -> bool:
    """Whether an actor has had one message in hand from one beat to the next.

    A console may, whose reader has gone to sleep: it is asked only where detection does not answer,
    which after a burst may only be late.
    """
    return any(
        each.in_hand
        and name in before
        and before[name].in_hand
        and before[name].handled == each.handled
        for name, each in now.items()
    )
