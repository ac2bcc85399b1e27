"""The intake: the source of a service, which pulls messages from a stream."""

from __future__ import annotations

import trio

from actors.runtime import Actor
from services.claims import Claims, Deliveries
from transport.feed import Feed
from transport.session import Delivery, Session
from transport.streams import Consumer

KEEP_SECS = 10.0
"""A third of the ack wait."""
_PULL_MESSAGES = 256
_PULL_MAX_BYTES = 8 << 20


class Intake(Actor):
    """Source: pulls from a durable consumer and tells what waits as one batch.

    While nobody takes its messages it pulls no more, and says that those it has are in progress.

    Args:
        session: the broker.
        consumer: which durable consumer.
        claims: where the messages are on record until they are settled.
        ready: set once the consumer is there.
        batch: messages told at once at most.
    """

    emits = (Deliveries,)

    def __init__(
        self,
        *,
        session: Session,
        consumer: Consumer,
        claims: Claims,
        ready: trio.Event,
        batch: int = 64,
    ) -> None:
        self._session = session
        self._consumer = consumer
        self._claims = claims
        self._ready = ready
        self._batch = batch

    async def run(self) -> None:
        """Pull until told to stop; what was pulled and not told by then is given back."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            nursery.start_soon(self._pull, nursery.cancel_scope)
            await self.context.stopping.wait()
            nursery.cancel_scope.cancel()

    async def _keep(self) -> None:
        while True:
            await trio.sleep(KEEP_SECS)
            self._claims.keep()

    async def _pull(self, scope: trio.CancelScope) -> None:
        await self._ready.wait()
        pulled = self._session.consume(
            self._consumer, batch=_PULL_MESSAGES, max_bytes=_PULL_MAX_BYTES
        )
        async with pulled as channel:
            waiting: list[Delivery] = []
            try:
                async for deliveries in channel:
                    self._claims.add(deliveries)
                    waiting += deliveries
                    waiting += self._more(channel)
                    while waiting:
                        part = waiting[: self._batch]
                        await self.context.tell(Deliveries(part))
                        del waiting[: self._batch]
            finally:
                self._claims.give_back(waiting, delay_secs=0)
        scope.cancel()

    def _more(self, channel: Feed) -> list[Delivery]:
        """What else waits, up to a batch."""
        found: list[Delivery] = []
        while len(found) < self._batch:
            try:
                deliveries = channel.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            self._claims.add(deliveries)
            found += deliveries
        return found
