"""Spooling: what has come and is not spooled yet, and the counters that go with it.

It outlives a crash of the publisher: sequence numbers are never given twice in one life of the
agent, and what the crash cost is counted as dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from actors.agent.batches import BatchMaker, Sender, probe_counts
from actors.agent.evidence import EvidenceLog
from actors.agent.messages import Telemetry
from actors.agent.sensor import Sensor
from actors.agent.settings import PublishSettings
from actors.agent.shipping import Shipping
from actors.detection.alerts import Alert
from actors.version import VERSION
from transport import messages
from transport.messages import (
    BATCH_MAX_BYTES,
    EVENTS_MAX,
    LIST_MAX,
    Counters,
    Evicted,
    Heartbeat,
    encode,
)
from transport.spool_errors import SpoolError
from transport.spool_records import Marks, NewItem
from transport.subjects import subject

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """What the publisher works with; made before the topology runs."""

    settings: PublishSettings
    sender: Sender
    shipping: Shipping
    heartbeat_prefix: str
    policy_version: Callable[[], str]
    """Of the policy in force now."""
    start_gaps: Sequence[messages.Gap]
    """What nobody can vouch for from before this start."""
    watching_since_unix_ms: int | None
    """None where the probes had been running all along."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _new(alerts: Sequence[Alert]) -> int:
    """How many are told for the first time: one that is told again is the same row of the store."""
    return sum(alert.first for alert in alerts)


class Spooling:
    """What waits to be spooled, and what became of everything before.

    Args:
        publishing: settings, spool and connection.
        sensor: whose rings are held until the spool has their events.
        clock_ms: Unix time in milliseconds.
    """

    def __init__(
        self, publishing: Publishing, sensor: Sensor, *, clock_ms: Callable[[], int] = _now_ms
    ) -> None:
        self.shipping = publishing.shipping
        self.batch_secs = publishing.settings.batch_ms / 1000
        self._publishing = publishing
        self._sensor = sensor
        self._clock_ms = clock_ms
        self._maker = BatchMaker(publishing.sender)
        self._wanted = frozenset(publishing.settings.events)
        self._events: list[messages.Event] = []
        self.alerts: list[Alert] = []
        self._weight = 0
        """Bytes beyond the ordinary of what waits."""
        self._positions: dict[str, int] = {}
        self._moved = False
        self._read = 0
        self._seeds = 0
        self._taken = 0
        self._unpublished = 0
        self._alerts = 0
        self._dropped = 0
        self._alerts_dropped = 0
        self._gaps = list(publishing.start_gaps)
        self._lost_with_spool: tuple[Evicted, ...] = ()
        self.owing = False
        """The last append evicted something that only the next batch can tell of."""
        self._evidence = EvidenceLog(
            watching_since_unix_ms=publishing.watching_since_unix_ms,
        )
        self._failing = False
        self._told = False
        """A batch was spooled since the last heartbeat."""
        self._began = time.monotonic()
        self._add_seeds()

    @property
    def pending(self) -> int:
        """Events that wait to be spooled."""
        return len(self._events)

    @property
    def full(self) -> bool:
        """Whether what waits makes a batch, by its events or by their bytes."""
        return self.pending >= EVENTS_MAX or self._weight >= BATCH_MAX_BYTES

    def _add_seeds(self) -> None:
        """Take the processes that ran before the first event, as the engine does.

        Straight from the sensor: they come before all that the rings hold, and no full mailbox
        can cost a worker the beginning of every lineage.
        """
        seeds = self._sensor.seeds()
        self._seeds = len(seeds)
        if "seed" in self._wanted:
            self._events += seeds
        else:
            self._unpublished += len(seeds)

    def add(self, message: Telemetry) -> None:
        """Take a sweep."""
        self._positions.update(message.positions)
        self._moved = True
        self._read = message.read
        self._weight += message.weight
        events = message.events
        self._taken += len(events)
        wanted = self._wanted
        if len(wanted) == len(messages.EVENT_TYPES):
            self._events += events
        else:
            kept = [e for e in events if e.__struct_config__.tag in wanted]
            self._unpublished += len(events) - len(kept)
            self._events += kept
        boot_ns = self._publishing.sender.host.boot_unix_ns
        for cut in message.cuts:
            self._evidence.note(cut, boot_unix_ns=boot_ns)
        if self._publishing.settings.alerts:
            self.alerts += [each for each in message.alerts if each.told]

    async def close(self, *, final: bool = False) -> None:
        """Spool what waits, then let the rings give back its space."""
        await trio.lowlevel.checkpoint()
        if not (self._events or self.alerts or self.owing or final):
            self._release()
            return
        now_ms = self._clock_ms()
        probes = self._sensor.counters()
        # Read, and not come: a full mailbox or a crash between reader and publisher.
        missing = self._read - self._taken
        self._gaps += self._evidence.compare(
            probes, dropped=self._dropped + missing, now_unix_ms=now_ms
        )
        events, alerts = self._events, self.alerts
        self._events, self.alerts, self._weight = [], [], 0
        spooled = False
        try:
            spooled = await self._spool(events, alerts, probes, missing=missing, now_ms=now_ms)
        finally:
            if not spooled:
                self._dropped += len(events)
                self._alerts_dropped += _new(alerts)
            self._alerts += _new(alerts)
        self._told = self._told or spooled
        self._release()

    async def _spool(
        self,
        events: Sequence[messages.Event],
        alerts: Sequence[Alert],
        probes: Mapping[str, Mapping[str, int]],
        *,
        missing: int,
        now_ms: int,
    ) -> bool:
        """Make messages of them and spool these; False if the spool fails, which is said once."""
        await trio.lowlevel.checkpoint()
        told = [*self._lost_with_spool, *self.shipping.unreported()]
        counters = Counters(
            load_id=self._sensor.load_id,
            probes=probe_counts(probes),
            read=self._read,
            seeds=self._seeds,
            unpublished=self._unpublished,
            dropped=self._dropped + missing,
            alerts=self._alerts + _new(alerts),
            alerts_dropped=self._alerts_dropped,
            evicted=told[:LIST_MAX],
            gaps=self._gaps[-LIST_MAX:],
        )
        ids = self._maker.event_ids(events) if alerts else {}
        items = [self._alert(each, ids, now_ms) for each in alerts]
        items += self._maker.telemetry(events, counters, now_unix_ms=now_ms)
        try:
            await self._append(items, counters)
        except SpoolError as error:
            if not self._failing:
                self._failing = True
                log.error(  # noqa: TRY400 - a full disk is no bug: no traceback
                    "spool fails; events are counted and dropped", why=str(error)
                )
            return False
        if self._failing:
            self._failing = False
            log.info("spool works again", events_dropped=self._dropped)
        return True

    async def _append(self, items: Sequence[NewItem], counters: Counters) -> None:
        """Spool messages with the marks that go with them."""
        shipping = self.shipping
        marks = Marks(
            load_id=self._sensor.load_id,
            positions=dict(self._positions),
            counters=counters,
            epoch=self._publishing.sender.epoch,
            next_batch=self._maker.next_batch_after,
            at_unix_ms=self._clock_ms(),
        )
        damaged = shipping.damaged
        # Shielded: cancelled in the middle, nobody would know whether it was spooled.
        with trio.CancelScope(shield=True):
            losses = await shipping.append(items, marks)
        if shipping.damaged > damaged and self._maker.next_seq:
            # What of this epoch was not sent by then is gone, and nobody knows what exactly.
            run = Evicted(marks.epoch, 0, self._maker.next_seq - 1, "corrupt")
            self._lost_with_spool = (run,)
        self._maker.keep()
        self._alerts_dropped += sum(each.items for each in losses if each.kind == "alert")
        self.owing = bool(losses)
        self._gaps = []

    def _release(self) -> None:
        """The rings may use the space of what has been dealt with."""
        if self._moved:
            self._moved = False
            self._sensor.release(self._positions)

    def _alert(self, alert: Alert, ids: dict[tuple[int, int, int, str], str], now_ms: int) -> Any:
        sender = self._publishing.sender
        time_ms = (sender.host.boot_unix_ns + alert.time_ns) // 1_000_000
        return self._maker.alert(
            alert,
            event_id=ids.get((alert.time_ns, alert.pid, alert.start_ns, alert.event), ""),
            evidence=self._evidence.at(time_ms, window_ms=1000 * alert.window_secs),
            now_unix_ms=now_ms,
        )

    async def beat(self, record: dict[str, Any]) -> None:
        """Publish a heartbeat; without a connection it goes nowhere, for the next one says more.

        Where nothing was spooled since the last one, a batch without events is: the ledger knows
        by it up to when an agent vouches for its counters.
        """
        await trio.lowlevel.checkpoint()
        if not self._told:  # its counters say that nothing has happened, and that the agent runs
            await self.close(final=True)
        self._told = False
        publishing = self._publishing
        sender = publishing.sender
        try:
            spool = await self.shipping.statistics()
        except SpoolError as error:
            record = {**record, "spool_error": str(error)}
            waiting = messages.Spool()
        else:
            waiting = messages.Spool(
                batches=spool.batches + spool.alerts,
                bytes=spool.bytes,
                oldest_age_secs=spool.oldest_age_secs,
            )
        beat = Heartbeat(
            agent_id=sender.address.agent_id,
            tenant_id=sender.address.tenant_id,
            hostname=sender.host.hostname,
            version=VERSION,
            policy_version=publishing.policy_version(),
            sent_at_unix_ms=self._clock_ms(),
            uptime_secs=round(time.monotonic() - self._began, 3),
            epoch=sender.epoch,
            counters=Counters(
                load_id=self._sensor.load_id,
                probes=probe_counts(self._sensor.counters()),
                read=self._read,
                seeds=self._seeds,
                unpublished=self._unpublished,
                dropped=self._dropped,
                spooled=self._maker.next_seq,
                alerts=self._alerts,
                alerts_dropped=self._alerts_dropped,
            ),
            spool=waiting,
            status=record,
        )
        where = subject(publishing.heartbeat_prefix, sender.address)
        self.shipping.publish_core(where, encode(beat))
