"""Pulling: the feeds of the partitions a worker holds, joined into one place to take from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog
import trio

from services.claims import Claims
from transport.errors import StreamMismatch, Unreachable
from transport.partitions import take_over
from transport.session import Delivery, Session
from transport.streams import Consumer, consumers_of

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_PULL_MESSAGES = 64
_PULL_MAX_BYTES = 4 << 20


@dataclass
class _Open:
    """A partition whose messages come."""

    durable: str
    generation: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    closed: trio.Event = field(default_factory=trio.Event)


class Pulling:
    """The messages of partitions, in order within each.

    A connection that is lost takes messages with it that would come again after newer ones; so it
    closes the partition, `stale`, and whoever holds it opens it under a new token.

    Args:
        session: the broker.
        consumer: the partitioned one.
        claims: where messages are on record until they are settled.
        batch: messages taken at once, at most.
    """

    def __init__(self, session: Session, consumer: Consumer, *, claims: Claims, batch: int) -> None:
        self._session = session
        self._consumer = consumer
        self._claims = claims
        self._batch = batch
        self._open: dict[int, _Open] = {}
        self._complained = False
        self._inlet, self._outlet = trio.open_memory_channel[tuple[int, list[Delivery]] | None](0)

    @property
    def partitions(self) -> frozenset[int]:
        """Those that are open."""
        return frozenset(self._open)

    def stale(self) -> frozenset[int]:
        """Those opened over a connection that is gone; empty while there is none."""
        if not self._session.connected:
            return frozenset()
        now = self._session.generation
        return frozenset(number for number, each in self._open.items() if each.generation != now)

    async def gone(self) -> frozenset[int]:
        """Those whose consumer is not there any more: somebody removed it, or its stream."""
        await trio.lowlevel.checkpoint()
        if not self._open or not self._session.connected:
            return frozenset()
        try:
            found = await consumers_of(self._session, self._consumer.stream)
        except Unreachable:
            return frozenset()
        there = {each["name"]: each["num_pending"] for each in found}
        if any(there.get(each.durable) for each in self._open.values()):
            self._claims.progress.has_work()
        return frozenset(number for number, each in self._open.items() if each.durable not in there)

    async def open(self, nursery: trio.Nursery, partition: int, *, token: int) -> bool:
        """Have the messages of a partition come.

        Returns:
            Whether they do; if not, the reason is logged, once.

        Raises:
            Overtaken: the token is not the highest.
        """
        await trio.lowlevel.checkpoint()
        generation = self._session.generation
        try:
            own = await take_over(self._session, self._consumer, partition, token=token)
        except (Unreachable, StreamMismatch) as error:
            if not self._complained:
                log.warning("partition cannot be opened yet", partition=partition, why=str(error))
            self._complained = True
            return False
        self._complained = False
        opened = self._open[partition] = _Open(own.durable, generation)
        nursery.start_soon(self._pull, partition, own, opened)
        return True

    async def close(self, partitions: Iterable[int]) -> None:
        """Have no more messages of these come; what waits is let go."""
        closing = [self._open.pop(each) for each in partitions if each in self._open]
        for each in closing:
            each.scope.cancel()
        for each in closing:
            await each.closed.wait()
        await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """Let whoever waits in `take` have nothing."""
        with contextlib.suppress(trio.WouldBlock):  # nobody waits
            self._inlet.send_nowait(None)

    async def take(self) -> list[tuple[int, Delivery]]:
        """Wait for messages, with their partitions; empty after a `wake`."""
        found = await self._outlet.receive()
        taken: list[tuple[int, Delivery]] = []
        while found is not None:
            partition, deliveries = found
            taken += [(partition, each) for each in deliveries if self._is_good(partition, each)]
            if len(taken) >= self._batch:
                break
            try:
                found = self._outlet.receive_nowait()
            except trio.WouldBlock:
                break
        return taken

    def _is_good(self, partition: int, delivery: Delivery) -> bool:
        """Whether nothing that comes before it may have been lost on its way."""
        opened = self._open.get(partition)
        good = opened is not None and opened.generation == delivery.generation
        if not good:
            self._claims.forget([delivery])
        return good

    async def _pull(self, partition: int, own: Consumer, opened: _Open) -> None:
        batch = min(_PULL_MESSAGES, self._batch)
        waiting: list[Delivery] = []
        try:
            with opened.scope:
                async with self._session.consume(
                    own, batch=batch, max_bytes=_PULL_MAX_BYTES, deadletter=False
                ) as feed:
                    while True:
                        waiting = await feed.receive()
                        self._claims.add(waiting)
                        await self._inlet.send((partition, waiting))
                        waiting = []
        finally:
            self._claims.forget(waiting)
            opened.closed.set()
