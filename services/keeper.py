"""The keeper: makes the broker have the streams and consumers, and keeps room in them."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from actors.runtime import Actor
from services.claims import Claims
from transport import streams
from transport.errors import Unreachable
from transport.session import Session
from transport.streams import Consumer

_LOOK_SECS = 5.0
_AGAIN_SECS = 0.5


class Keeper(Actor):
    """Source that ensures the streams at every look: a broker may come back empty.

    Args:
        session: the broker.
        consumers: the durable consumers this process reads.
        ready: set once they are there.
        replicas: copies of each stream.
        claims: of the process's intakes, to which it says whether messages wait for them.

    A stream that cannot be used as it is, `transport.errors.StreamMismatch`, ends it.
    """

    def __init__(
        self,
        *,
        session: Session,
        consumers: Sequence[Consumer],
        ready: trio.Event,
        replicas: int,
        claims: Sequence[Claims] = (),
    ) -> None:
        self._session = session
        self._consumers = consumers
        self._ready = ready
        self._replicas = replicas
        self._claims = claims

    async def run(self) -> None:
        """Look after the streams until told to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after)
            await self.context.stopping.wait()
            nursery.cancel_scope.cancel()

    async def _look_after(self) -> None:
        complained = False
        while True:
            await self._session.wait_connected()
            try:
                await streams.ensure(
                    self._session,
                    streams=streams.used_by(self._consumers),
                    consumers=self._consumers,
                    replicas=self._replicas,
                )
                self._ready.set()
                removed = await streams.make_room(self._session, streams.read_by(self._consumers))
                await self._look_for_work()
            except Unreachable as error:
                if not complained:
                    self.context.log.warning("streams cannot be looked after", why=str(error))
                complained = True
                await trio.sleep(_AGAIN_SECS)
            else:
                complained = False
                # Where there was something to remove there may soon be more.
                await trio.sleep(_AGAIN_SECS if removed else _LOOK_SECS)

    async def _look_for_work(self) -> None:
        """A part to which nothing comes, though something waits, does not get on either."""
        await trio.lowlevel.checkpoint()
        for consumer in self._consumers:
            found = [each for each in self._claims if each.durable == consumer.durable]
            if found and not consumer.partitions and await streams.waits(self._session, consumer):
                for claims in found:
                    claims.progress.has_work()
