"""The publisher: what detection saw, into the spool and from there to the broker.

A batch is closed at 500 events or after a moment, whichever comes first, and spooled before
anything else: only then do the rings give back its space, so a crash loses nothing. The broker's
ack removes it. Where the spool fails, events are counted as dropped and the agent goes on.

Alerts go first. The shipping to the broker runs beside the spooling and never holds it up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import trio

from actors.agent.batches import BatchMaker, Sender, probe_counts
from actors.agent.evidence import EvidenceLog
from actors.agent.messages import Status, Telemetry
from actors.agent.sensor import Sensor
from actors.agent.settings import PublishSettings
from actors.agent.shipping import Shipping
from actors.detection.alerts import Alert
from actors.runtime import Actor
from actors.version import VERSION
from transport import messages
from transport.messages import EVENTS_MAX, LIST_MAX, Counters, Evicted, Heartbeat, encode
from transport.spool_errors import SpoolError
from transport.spool_records import Marks, NewItem
from transport.subjects import subject

_FAREWELL_SECS = 2.0
_OWING_SECS = 1.0


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """What the publisher works with; made before the topology runs."""

    settings: PublishSettings
    sender: Sender
    shipping: Shipping
    evidence_window_ms: int
    heartbeat_prefix: str
    policy_version: str
    start_gaps: Sequence[messages.Gap]
    """What nobody can vouch for from before this start."""
    watching_since_unix_ms: int | None
    """None where the probes had been running all along."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Publisher(Actor):
    """Spools and ships events, alerts and heartbeats.

    Args:
        sensor: whose rings are held until the spool has their events.
        publishing: settings, spool and connection; None to do nothing.
        clock_ms: Unix time in milliseconds.
    """

    accepts = (Telemetry, Status)

    def __init__(
        self,
        *,
        sensor: Sensor,
        publishing: Publishing | None,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._sensor = sensor
        self._publishing = publishing
        self._clock_ms = clock_ms

    async def run(self) -> None:
        """Spool until the mailbox is closed and empty; then say the last and let it be shipped."""
        publishing = self._publishing
        if publishing is None:
            await super().run()
            return
        work = _Spooling(publishing, self._sensor, self.context, self._clock_ms)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publishing.shipping.run)
            await self._take(work, publishing.settings.batch_ms / 1000)
            await work.close(final=True)
            if work.owing:
                await work.close()
            with trio.move_on_after(_FAREWELL_SECS):
                await publishing.shipping.emptied()
            nursery.cancel_scope.cancel()

    async def handle(self, message: Telemetry | Status) -> None:  # noqa: ARG002 - as it says
        """Without publishing there is nothing to do with it."""
        await trio.lowlevel.checkpoint()

    async def _take(self, work: _Spooling, batch_secs: float) -> None:
        mailbox = self.context.mailbox
        due = math.inf
        while True:
            try:
                with trio.move_on_at(due) as waiting:
                    message = await mailbox.take()
            except trio.EndOfChannel:
                await trio.lowlevel.checkpoint()
                return
            if waiting.cancelled_caught:
                await work.close()
                due = trio.current_time() + _OWING_SECS if work.owing else math.inf
                continue
            if isinstance(message, Status):
                await work.beat(message.record)
            else:
                work.add(message)
                if work.pending >= EVENTS_MAX or work.alerts:
                    await work.close()
                    due = trio.current_time() + _OWING_SECS if work.owing else math.inf
                elif due == math.inf:
                    due = trio.current_time() + batch_secs
            mailbox.done()


class _Spooling:
    """What has come and is not spooled yet, and the counters that go with it."""

    def __init__(
        self,
        publishing: Publishing,
        sensor: Sensor,
        context: Any,
        clock_ms: Callable[[], int],
    ) -> None:
        self._publishing = publishing
        self._sensor = sensor
        self._log = context.log
        self._clock_ms = clock_ms
        self._maker = BatchMaker(publishing.sender)
        self._wanted = frozenset(publishing.settings.events)
        self._events: list[messages.Event] = []
        self.alerts: list[Alert] = []
        self._positions: dict[str, int] = {}
        self._moved = False
        self._read = 0
        self._taken = 0
        self._unpublished = 0
        self._alerts = 0
        self._dropped = 0
        self._alerts_dropped = 0
        self._gaps = list(publishing.start_gaps)
        self._lost_with_spool: list[Evicted] = []
        self.owing = False
        """The last append evicted something that only the next batch can tell of."""
        self._evidence = EvidenceLog(
            window_ms=publishing.evidence_window_ms,
            watching_since_unix_ms=publishing.watching_since_unix_ms,
        )
        self._failing = False
        self._began = time.monotonic()

    @property
    def pending(self) -> int:
        """Events that wait to be spooled."""
        return len(self._events)

    def add(self, message: Telemetry) -> None:
        """Take a sweep."""
        self._positions.update(message.positions)
        self._moved = True
        self._read = message.read
        events = cast("list[messages.Event]", message.events)  # seeds do not come from rings
        self._taken += len(events)
        wanted = self._wanted
        if len(wanted) == len(messages.EVENT_TYPES):
            self._events += events
        else:
            kept = [e for e in events if e.__struct_config__.tag in wanted]
            self._unpublished += len(events) - len(kept)
            self._events += kept
        if self._publishing.settings.alerts:
            self.alerts += message.alerts

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
        self._events, self.alerts = [], []
        told = [*self._publishing.shipping.unreported(), *self._lost_with_spool]
        counters = Counters(
            load_id=self._sensor.load_id,
            probes=probe_counts(probes),
            read=self._read,
            unpublished=self._unpublished,
            dropped=self._dropped + missing,
            alerts=self._alerts + len(alerts),
            alerts_dropped=self._alerts_dropped,
            evicted=told[:LIST_MAX],
            gaps=self._gaps[-LIST_MAX:],
        )
        ids = self._maker.event_ids(events) if alerts else {}
        items = [self._alert(each, ids, now_ms) for each in alerts]
        items += self._maker.telemetry(events, counters, now_unix_ms=now_ms)
        await self._spool(items, counters, events=len(events), alerts=len(alerts))
        self._release()

    async def _spool(
        self, items: Sequence[NewItem], counters: Counters, *, events: int, alerts: int
    ) -> None:
        """Spool messages, or count what they held as dropped."""
        await trio.lowlevel.checkpoint()
        shipping = self._publishing.shipping
        marks = Marks(
            load_id=self._sensor.load_id,
            positions=dict(self._positions),
            counters=counters,
            epoch=self._publishing.sender.epoch,
            next_batch=self._maker.next_batch_after,
            at_unix_ms=self._clock_ms(),
        )
        damaged = shipping.damaged
        try:
            # Shielded: cancelled in the middle, nobody would know whether it was spooled.
            with trio.CancelScope(shield=True):
                losses = await shipping.append(items, marks, telling=counters.evicted)
        except SpoolError as error:
            self._dropped += events
            self._alerts += alerts
            self._alerts_dropped += alerts
            if not self._failing:
                self._failing = True
                self._log.error("spool fails; events are counted and dropped", why=str(error))
            return
        if shipping.damaged > damaged and self._maker.next_seq:
            # What of this epoch was not sent by then is gone, and nobody knows what exactly.
            run = Evicted(marks.epoch, 0, self._maker.next_seq - 1, "corrupt")
            self._lost_with_spool.append(run)
        self._maker.keep()
        self._alerts += alerts
        self._alerts_dropped += sum(each.items for each in losses if each.kind == "alert")
        self.owing = bool(losses)
        self._gaps = []
        if self._failing:
            self._failing = False
            self._log.info("spool works again", events_dropped=self._dropped)

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
            evidence=self._evidence.at(time_ms),
            now_unix_ms=now_ms,
        )

    async def beat(self, record: dict[str, Any]) -> None:
        """Publish a heartbeat; without a connection it goes nowhere, for the next one says more."""
        await trio.lowlevel.checkpoint()
        publishing = self._publishing
        sender = publishing.sender
        try:
            spool = await publishing.shipping.statistics()
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
            policy_version=publishing.policy_version,
            sent_at_unix_ms=self._clock_ms(),
            uptime_secs=round(time.monotonic() - self._began, 3),
            epoch=sender.epoch,
            counters=Counters(
                load_id=self._sensor.load_id,
                probes=probe_counts(self._sensor.counters()),
                read=self._read,
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
        publishing.shipping.publish_core(where, encode(beat))
