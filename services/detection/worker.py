"""The worker: holds its share of the partitions, and deals with their messages."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from actors.runtime import Actor
from services.claims import Claims
from services.detection.agents import AgentCounts, Agents
from services.detection.engine import MakeDetection
from services.detection.leases import Leases
from services.detection.processing import Processor, WorkCounts
from services.detection.pulling import Pulling
from services.detection.reach import Reach
from services.detection.state import BEAT_SECS, StateUnavailable
from services.intake import KEEP_SECS
from services.publishing import Stopped
from transport.partitions import Overtaken
from transport.session import Session
from transport.streams import Consumer

_GOODBYE_SECS = 0.5
_WAKE_SECS = 0.1
_LOOK_SECS = 5.0
"""How often to see whether the partitions' consumers are there."""


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
        processor = Processor(
            session=self._session,
            reach=self._reach,
            leases=self._leases,
            agents=self._agents,
            claims=self._claims,
            counts=self._counts,
            stopping=self.context.stopping,
            log=self.context.log,
            clock_ms=self._clock_ms,
        )
        while not self.context.stopping.is_set():
            await self._move(nursery)
            taken = await self._pulling.take()
            try:
                while taken:
                    taken = await processor.deal_with(taken)
            except (Stopped, StateUnavailable) as error:
                self.context.log.warning("stopped with messages in hand", why=str(error))

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
            await trio.sleep(_WAKE_SECS)
