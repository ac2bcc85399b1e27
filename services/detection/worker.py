"""The worker: a partition's messages through the engines, alerts out, state saved, then the acks.

A crash anywhere between repeats deterministic work: the alerts come again under the same ids, and
what is saved is recognised. Nothing is acked that is not saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from actors.runtime import Actor
from services.claims import Claims
from services.detection.agents import AgentCounts, Agents, first_part
from services.detection.engine import MakeDetection
from services.detection.leases import Leases
from services.detection.pulling import Pulling
from services.detection.reach import Reach
from services.detection.state import BEAT_SECS, StateUnavailable, Unit, Written
from services.intake import KEEP_SECS
from services.refusals import refusal
from transport.messages import Alert, CanonicalBatch, CanonicalSingle, encode
from transport.partitions import Overtaken
from transport.session import Delivery, Outgoing, Session
from transport.streams import Consumer
from transport.subjects import ALERTS, INVALID, Address, address_of, subject

_PUBLISH_WITHIN_SECS = 5.0
_PAUSE_FIRST_SECS = 0.1
_PAUSE_MAX_SECS = 2.0
_GOODBYE_SECS = 0.5
_LOOK_SECS = 5.0
"""How often to see whether the partitions' consumers are there."""
_DETAIL_MAX = 500
_FAILED = "engine_failed"
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
    unpublished: int = 0
    """Publishes the broker did not confirm; they were made again."""


class _Stopped(Exception):  # noqa: N818 - it says what is so
    """The worker is told to stop, and what it waits for is away."""


@dataclass(slots=True)
class _Group:
    """What becomes of messages that are dealt with together."""

    done: list[tuple[int, Delivery]] = field(default_factory=list)
    """With their partitions."""
    outgoing: list[Outgoing] = field(default_factory=list)
    alerts: int = 0
    refused: list[Delivery] = field(default_factory=list)
    broken: set[Unit] = field(default_factory=set)
    unmade: dict[Unit, str] = field(default_factory=dict)
    """Units of which no engine can be made, and why."""
    later: list[tuple[int, Delivery]] = field(default_factory=list)
    """Messages of units that are broken: their engines are made again first."""


_Readable = tuple[int, Delivery, Unit, CanonicalBatch]


class Worker(Actor):
    """Source: runs the engines of the partitions it holds.

    Args:
        session: the broker.
        reach: the state.
        leases: its partitions.
        consumer: the partitioned one.
        claims: the messages' record.
        make: makes an engine.
        batch: messages dealt with together, at most.
        max_agents: engines in memory, at most.
        counts: what was done.
        agent_counts: what became of engines.
        ready: set once the streams are there.
        clock_ms: Unix time in milliseconds.
    """

    def __init__(  # noqa: PLR0913 - what it needs, by name
        self,
        *,
        session: Session,
        reach: Reach,
        leases: Leases,
        consumer: Consumer,
        claims: Claims,
        make: MakeDetection,
        batch: int,
        max_agents: int,
        counts: WorkCounts,
        agent_counts: AgentCounts,
        ready: trio.Event,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._session = session
        self._reach = reach
        self._leases = leases
        # Those of one that crashed may have half a group in them.
        self._pulling = Pulling(session, consumer, claims=claims, batch=batch)
        self._agents = Agents(make, max_agents=max_agents, counts=agent_counts)
        self._claims = claims
        self._counts = counts
        self._ready = ready
        self._clock_ms = clock_ms
        self._take_at = 0.0
        self._look_at = 0.0

    async def run(self) -> None:
        """Work until told to stop; then finish the group in hand and give the partitions back."""
        async with self._reach.state.opened():
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep)
                    nursery.start_soon(self._wake_at_the_end)
                    await self._wait_ready()
                    nursery.start_soon(self._leases.keep, self._pulling.wake)
                    await self._work(nursery)
                    await self._pulling.close(self._pulling.partitions)
                    nursery.cancel_scope.cancel()
            finally:
                with trio.move_on_after(_GOODBYE_SECS, shield=True):
                    self._claims.give_back_all()
                    await self._leases.give_back(frozenset(self._leases.tokens), leaving=True)

    async def _work(self, nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()
        while not self.context.stopping.is_set():
            await self._move(nursery)
            taken = await self._pulling.take()
            try:
                while taken:
                    taken = await self._deal_with(taken)
            except (_Stopped, StateUnavailable) as error:
                self.context.log.warning("stopped with messages in hand", why=str(error))

    # Partitions

    async def _move(self, nursery: trio.Nursery) -> None:
        """Hold what we should."""
        await trio.lowlevel.checkpoint()
        move = self._leases.move()
        stale = self._pulling.stale()
        if trio.current_time() >= self._look_at:
            stale |= await self._pulling.gone()
            self._look_at = trio.current_time() + _LOOK_SECS
        leaving = move.lost | move.surplus
        if leaving or stale:
            await self._pulling.close(leaving | stale)
        for partition in leaving:
            self._agents.forget_partition(partition)
        if leaving:
            self.context.log.info(
                "partitions given up", lost=sorted(move.lost), given_back=sorted(move.surplus)
            )
        self._leases.drop(move.lost)
        if move.surplus:
            await self._leases.give_back(move.surplus)
        # One's own are taken anew where they have to be opened anew: under a higher token.
        again = [each for each in self._leases.tokens if each not in self._pulling.partitions]
        wanted = [*again, *move.wanted]
        if wanted and self._session.connected and trio.current_time() >= self._take_at:
            await self._take(nursery, wanted)

    async def _take(self, nursery: trio.Nursery, partitions: list[int]) -> None:
        await trio.lowlevel.checkpoint()
        for partition in partitions:
            # Somebody may have had it meanwhile, and written what is not in our memory.
            self._agents.forget_partition(partition)
        self._take_at = trio.current_time() + BEAT_SECS
        try:
            await self._leases.take(partitions)
        except StateUnavailable:
            return
        opened = []
        for partition in partitions:
            token = self._leases.tokens.get(partition)
            if token is None:
                continue
            try:
                if await self._pulling.open(nursery, partition, token=token):
                    opened.append(partition)
            except Overtaken as error:
                self._leases.overtaken(error.token)
        if opened:
            self._take_at = 0.0
            self.context.log.info(
                "partitions taken", partitions=opened, workers=self._leases.workers
            )

    async def _wait_ready(self) -> None:
        """Until the streams are there, or we are told to stop."""
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await self.context.stopping.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            await self._ready.wait()
            nursery.cancel_scope.cancel()

    async def _keep(self) -> None:
        while True:
            await trio.sleep(KEEP_SECS)
            self._claims.keep()

    async def _wake_at_the_end(self) -> None:
        await self.context.stopping.wait()
        while True:
            self._pulling.wake()
            await trio.sleep(_PAUSE_FIRST_SECS)

    # Messages

    async def _deal_with(self, taken: Sequence[tuple[int, Delivery]]) -> list[tuple[int, Delivery]]:
        """Engines, alerts, state, acks. Returns what has to be dealt with after this."""
        group = _Group()
        readable = self._read(taken, group)
        await self._load(readable, group)
        for each in readable:
            self._process(each, group)
            await trio.lowlevel.checkpoint()
        await self._publish(group.outgoing)
        self._counts.alerts += group.alerts
        self._settle(group, lost=await self._save())
        return group.later

    def _read(self, taken: Sequence[tuple[int, Delivery]], group: _Group) -> list[_Readable]:
        """The batches of messages; the others are dealt with."""
        found: list[_Readable] = []
        for partition, delivery in taken:
            address = address_of(delivery.subject)
            try:
                message = _decode(delivery.payload)
                if (message.tenant_id, message.agent_id) != address:
                    claimed = f"{message.tenant_id}.{message.agent_id}"
                    raise ValueError(f"claims to be {claimed} on a subject of {'.'.join(address)}")
            except _Undecodable as error:
                self._refuse(group, delivery, address, "invalid", str(error))
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
        for units in batched(missing, _LOAD_UNITS):
            kept = await self._reach.call(
                lambda state, units=units: state.load(units),  # type: ignore[misc]
                until=self.context.stopping,
            )
            for unit, each in zip(units, kept, strict=True):
                host, partition = missing[unit]
                try:
                    self._agents.restore(unit, host, each, partition=partition)
                except Exception as error:  # noqa: BLE001 - one bad agent is no reason to end
                    group.unmade[unit] = repr(error)
                await trio.lowlevel.checkpoint()

    def _process(self, readable: _Readable, group: _Group) -> None:
        partition, delivery, unit, batch = readable
        if unit in group.unmade:
            why = group.unmade[unit]
            self._refuse(group, delivery, address_of(delivery.subject), _FAILED, why)
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
            self._refuse(group, delivery, address_of(delivery.subject), _FAILED, repr(error))
            return
        self._counts.late += finding == "late"
        self._counts.events += len(batch.events)
        group.alerts += len(alerts)
        group.outgoing += [_outgoing(alert, unit) for alert in alerts]
        group.done.append((partition, delivery))

    def _refuse(
        self, group: _Group, delivery: Delivery, address: Address, reason: str, detail: str
    ) -> None:
        self._counts.invalid += 1
        self.context.log.error(
            "message goes to the invalid lane",
            agent=address.agent_id,
            stream_seq=delivery.stream_seq,
            reason=reason,
            detail=detail[:_DETAIL_MAX],
        )
        record = refusal(
            delivery, address, reason=reason, detail=detail, received_at_unix_ms=self._clock_ms()
        )
        where = subject(INVALID, address)
        group.outgoing.append(Outgoing(where, encode(record), record.invalid_id))
        group.refused.append(delivery)

    async def _publish(self, left: list[Outgoing]) -> None:
        """Publish until the broker has all."""
        await trio.lowlevel.checkpoint()
        pause_secs = _PAUSE_FIRST_SECS
        while left:
            receipts = await self._session.publish_all(left, within_secs=_PUBLISH_WITHIN_SECS)
            failed = [
                (each, receipt.error)
                for each, receipt in zip(left, receipts, strict=True)
                if not receipt.stored
            ]
            left = [each for each, _ in failed]
            if not failed:
                return
            why = failed[0][1]
            self._counts.unpublished += len(failed)
            self.context.log.warning(
                "broker did not take what detection publishes; it is sent again",
                messages=len(failed),
                why=why,
            )
            with trio.move_on_after(pause_secs):
                await self.context.stopping.wait()
                raise _Stopped(why)
            pause_secs = min(2 * pause_secs, _PAUSE_MAX_SECS)

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
                until=self.context.stopping,
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


def _outgoing(alert: Alert, unit: Unit) -> Outgoing:
    where = subject(ALERTS, Address(unit.tenant_id, unit.agent_id))
    return Outgoing(where, encode(alert), alert.alert_id)
