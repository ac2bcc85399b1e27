"""Groups of messages: through the engines, alerts out, state saved, then the acks.

A crash anywhere between repeats deterministic work: the alerts come again under the same ids, and
what is saved is recognised. Nothing is acked that is not saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
import trio

from services.buckets import Buckets
from services.claims import Claims
from services.detection.agents import BOOTS_MAX, Agents, first_part
from services.detection.leases import Leases
from services.detection.reach import Reach
from services.detection.state import Unit, Written
from services.publishing import Full, publish_for_good
from services.refusals import UNPUBLISHABLE, check_sender, refusal
from transport.bounds import encode_checked
from transport.messages import (
    Alert,
    CanonicalBatch,
    CanonicalSingle,
    encode,
    message_id,
)
from transport.session import Delivery, Outgoing, Session
from transport.subjects import ALERTS, INVALID, Address, subject

_BOOTS_BURST = 16
_BOOTS_PER_SEC = 1 / 60
"""Boots that an agent may name anew, at once and for long: each costs an engine."""
_DETAIL_MAX = 500
_FAILED = "engine_failed"
_TOO_MANY_BOOTS = "too_many_boots"
_LOAD_UNITS = 8
"""Loaded in one round trip: each may have a whole snapshot and a whole journal."""
_Undecodable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
_decode = msgspec.json.Decoder(CanonicalBatch | CanonicalSingle).decode


@dataclass(slots=True)
class WorkCounts:
    """What a worker did since the start."""

    messages: int = 0
    """Messages dealt with, of whatever kind."""
    events: int = 0
    """Events the engines took."""
    alerts: int = 0
    """Alerts the broker has."""
    late: int = 0
    """Batches that came after ones that follow them; the engines took them."""
    repeats: int = 0
    """Batches that came again; nothing was done about them."""
    singles: int = 0
    """Messages of the first version, which no engine takes: their agents decide by themselves."""
    invalid: int = 0
    """Messages that did not decode, lied about their sender, or made an engine fail."""
    poisoned: int = 0
    """Single events that made an engine fail; the others of their batches were taken."""
    unpublished: int = 0
    """Publishes the broker did not confirm; they were made again."""
    unpublishable: int = 0
    """Alerts the broker can never take; records of them went to the invalid lane."""


@dataclass(slots=True)
class _Group:
    """What becomes of messages that are dealt with together."""

    done: list[tuple[int, Delivery]] = field(default_factory=list)
    """With their partitions."""
    outgoing: list[tuple[Outgoing, Delivery]] = field(default_factory=list)
    """With the message that each was made of."""
    alerts: int = 0
    refused: list[Delivery] = field(default_factory=list)
    broken: set[Unit] = field(default_factory=set)
    unmade: dict[Unit, tuple[str, str]] = field(default_factory=dict)
    """Units that get no engine: the reason in one word, and in detail."""
    told: set[tuple[str, str]] = field(default_factory=set)
    """Subjects and reasons of refusals that were logged."""
    later: list[tuple[int, Delivery]] = field(default_factory=list)
    """Messages of units that are broken: their engines are made again first. And those of other
    boots of an agent."""


_Readable = tuple[int, Delivery, Unit, CanonicalBatch]


class Processor:
    """Deals with messages.

    Args:
        session: the broker.
        reach: the state.
        leases: the partitions' tokens.
        agents: the engines.
        claims: the messages' record.
        counts: what was done.
        stopping: set when it should not wait any longer for what is away.
        log: where refusals are told.
        clock_ms: Unix time in milliseconds.
    """

    def __init__(  # noqa: PLR0913 - what it needs, by name
        self,
        *,
        session: Session,
        reach: Reach,
        leases: Leases,
        agents: Agents,
        claims: Claims,
        counts: WorkCounts,
        stopping: trio.Event,
        log: structlog.typing.FilteringBoundLogger,
        clock_ms: Callable[[], int],
    ) -> None:
        self._session = session
        self._reach = reach
        self._leases = leases
        self._agents = agents
        self._claims = claims
        self._counts = counts
        self._stopping = stopping
        self._log = log
        self._clock_ms = clock_ms
        self._full = Full()
        self._boots = Buckets(rate_per_sec=_BOOTS_PER_SEC, burst=_BOOTS_BURST)

    async def deal_with(self, taken: Sequence[tuple[int, Delivery]]) -> list[tuple[int, Delivery]]:
        """Engines, alerts, state, acks. Returns what has to be dealt with after this.

        Raises:
            Stopped, StateUnavailable: something is away and ``stopping`` is set; nothing is acked.
        """
        group = _Group()
        readable = _few_boots_each(self._read(taken, group), group)
        await self._load(readable, group)
        for each in readable:
            self._process(each, group)
            await trio.lowlevel.checkpoint()
        await self._publish(group)
        self._counts.alerts += group.alerts
        self._settle(group, lost=await self._save())
        return group.later

    def _read(self, taken: Sequence[tuple[int, Delivery]], group: _Group) -> list[_Readable]:
        """The batches of messages; the others are dealt with."""
        found: list[_Readable] = []
        for partition, delivery in taken:
            try:
                message = _decode(delivery.payload)
                address = check_sender(message, delivery)
            except _Undecodable as error:
                self._refuse(group, delivery, "invalid", str(error))
                continue
            if isinstance(message, CanonicalSingle):
                self._counts.singles += 1
                group.done.append((partition, delivery))
            else:
                found.append((partition, delivery, Unit(*address, message.host.boot_id), message))
        return found

    async def _load(self, readable: Sequence[_Readable], group: _Group) -> None:
        """Have the engines of all: few round trips for those that are not in memory."""
        await trio.lowlevel.checkpoint()
        missing = {
            unit: (batch.host, partition)
            for partition, _, unit, batch in readable
            if unit not in self._agents
        }
        for unit in [unit for unit in missing if self._boots_too_often(unit)]:
            del missing[unit]
            group.unmade[unit] = (_TOO_MANY_BOOTS, f"boot {unit.boot_id!r} follows too many others")
        for units in batched(missing, _LOAD_UNITS):
            kept = await self._reach.call(
                lambda state, units=units: state.load(units),  # type: ignore[misc]
                until=self._stopping,
            )
            for unit, each in zip(units, kept, strict=True):
                host, partition = missing[unit]
                try:
                    self._agents.restore(unit, host, each, partition=partition)
                except Exception as error:  # noqa: BLE001 - one bad agent is no reason to end
                    group.unmade[unit] = (_FAILED, repr(error))
                await trio.lowlevel.checkpoint()

    def _boots_too_often(self, unit: Unit) -> bool:
        """Whether an agent names more boots than a host has: each would cost an engine."""
        if not self._agents.is_another_boot(unit):
            return False
        address = Address(unit.tenant_id, unit.agent_id)
        return not self._boots.take_if_there(address, 1, now_secs=trio.current_time())

    def _process(self, readable: _Readable, group: _Group) -> None:
        partition, delivery, unit, batch = readable
        if unit in group.unmade:
            self._refuse(group, delivery, *group.unmade[unit])
            return
        if unit in group.broken or unit not in self._agents:
            group.later.append((partition, delivery))
            return
        finding = self._agents.find(unit, batch)
        if finding == "repeat":
            self._counts.repeats += 1
            group.done.append((partition, delivery))
            return
        try:
            alerts = self._agents.process(unit, batch, delivery.payload)
        except Exception as error:  # noqa: BLE001 - one bad message is no reason to end
            group.broken.add(unit)
            self._refuse(group, delivery, _FAILED, repr(error))
            return
        if poisoned := self._agents.poisoned(unit):
            self._refuse_events(group, delivery, batch, poisoned)
        self._counts.late += finding == "late"
        self._counts.events += len(batch.events)
        group.alerts += len(alerts)
        for alert in alerts:
            self._send_alert(alert, unit, delivery, group)
        group.done.append((partition, delivery))

    def _send_alert(self, alert: Alert, unit: Unit, delivery: Delivery, group: _Group) -> None:
        """An alert that whoever reads it can decode; else a record of it."""
        where = subject(ALERTS, Address(unit.tenant_id, unit.agent_id))
        try:
            payload = encode_checked(alert)
        except msgspec.ValidationError as error:
            part = (alert.alert_id, encode(alert))
            self._to_invalid_lane(group, delivery, reason=_FAILED, detail=str(error), part=part)
            return
        own = message_id(unit.tenant_id, unit.agent_id, payload)
        group.outgoing.append((Outgoing(where, payload, own), delivery))

    def _refuse(self, group: _Group, delivery: Delivery, reason: str, detail: str) -> None:
        """The whole message goes to the invalid lane."""
        self._counts.invalid += 1
        self._to_invalid_lane(group, delivery, reason=reason, detail=detail)
        group.refused.append(delivery)

    def _refuse_events(
        self,
        group: _Group,
        delivery: Delivery,
        batch: CanonicalBatch,
        poisoned: Sequence[tuple[int, str]],
    ) -> None:
        """Single events go to the invalid lane; the others of their batch were taken."""
        self._counts.poisoned += len(poisoned)
        events = dict(zip(batch.sequence_numbers(), batch.events, strict=True))
        for seq, why in poisoned:
            self._to_invalid_lane(
                group,
                delivery,
                reason=_FAILED,
                detail=why,
                part=(seq, encode(events[seq])),
            )

    def _to_invalid_lane(
        self,
        group: _Group,
        delivery: Delivery,
        *,
        reason: str,
        detail: str,
        part: tuple[int | str, bytes] | None = None,
    ) -> None:
        if (delivery.subject, reason) not in group.told:  # one line of each, however many there are
            group.told.add((delivery.subject, reason))
            self._log.error(
                "goes to the invalid lane",
                what="message" if part is None else f"{part[0]} of a message",
                subject=delivery.subject[:200],
                stream_seq=delivery.stream_seq,
                reason=reason,
                detail=detail[:_DETAIL_MAX],
            )
        record = refusal(
            delivery,
            reason=reason,
            detail=detail,
            received_at_unix_ms=self._clock_ms(),
            part=part,
        )
        group.outgoing.append((record, delivery))

    async def _publish(self, group: _Group) -> None:
        """Publish until the broker has all, or a record of what it can never have."""

        def instead(index: int, why: str) -> Outgoing | None:
            message, delivery = group.outgoing[index]
            if message.subject.startswith(f"{INVALID}."):
                return None
            return refusal(
                delivery,
                reason=UNPUBLISHABLE,
                detail=why,
                received_at_unix_ms=self._clock_ms(),
                part=(message.message_id, message.payload),
            )

        await publish_for_good(
            self._session,
            [message for message, _ in group.outgoing],
            done=lambda _: None,
            instead=instead,
            counts=self._counts,
            log=self._log,
            full=self._full,
            stopping=self._stopping,
        )

    async def _save(self) -> set[int]:
        """Write what was processed, in one round trip; two where the state has lost something.

        Returns:
            Partitions that turn out to be somebody else's.
        """
        await trio.lowlevel.checkpoint()
        lost: set[int] = set()
        writes = self._agents.writes(self._leases.tokens)
        while writes:
            part, writes = first_part(writes)
            results = await self._reach.call(
                lambda state, part=part: state.save(part),  # type: ignore[misc]
                until=self._stopping,
            )
            lost |= {
                write.partition
                for write, result in zip(part, results, strict=True)
                if result is Written.FENCED
            }
            writes += self._agents.written(part, results)
        return lost

    def _settle(self, group: _Group, *, lost: set[int]) -> None:
        """Ack what is saved. What belongs to a lost partition is for its new owner to deal with."""
        self._counts.messages += len(group.done) + len(group.refused)
        self._claims.ack([each for partition, each in group.done if partition not in lost])
        self._claims.forget([each for partition, each in group.done if partition in lost])
        self._claims.end(group.refused)
        if lost:
            self._leases.fenced(frozenset(lost))
        for unit in group.broken:
            self._agents.forget(unit)
        self._agents.shrink()


def batched(items: Iterable[Unit], size: int) -> Iterator[list[Unit]]:
    """Lists of so many, and what is left."""
    left = list(items)
    while left:
        yield left[:size]
        del left[:size]


def _few_boots_each(readable: Sequence[_Readable], group: _Group) -> list[_Readable]:
    """Of each agent the messages of as many boots as are followed; the others' come after these.

    All at once they would push each other's engines out, and each would be made again and again.
    """
    boots: dict[Address, set[Unit]] = {}
    now: list[_Readable] = []
    for each in readable:
        partition, delivery, unit, _ = each
        known = boots.setdefault(Address(unit.tenant_id, unit.agent_id), set())
        if unit in known or len(known) < BOOTS_MAX:
            known.add(unit)
            now.append(each)
        else:
            group.later.append((partition, delivery))
    return now
