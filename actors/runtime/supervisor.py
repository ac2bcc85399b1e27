"""The supervisor: starts the actors, restarts those that crash, drains them in order.

Every instance of an actor lives in a task of its own and reports its end (`child.py`). `run` reads
those reports one by one and decides, so no two decisions overlap.
"""

import math
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NoReturn

import structlog
import trio

from actors.runtime.actor import Context
from actors.runtime.child import Child, Run
from actors.runtime.errors import (
    EscalationError,
    RestartIntensityExceeded,
    StartError,
)
from actors.runtime.mailbox import Mailbox
from actors.runtime.spec import Topology
from actors.runtime.statistics import ActorStatistics

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class End(Enum):
    """How a supervisor's run ended, unless it raised."""

    #: Every source ended by itself, and what they had told was handled.
    FINISHED = "finished"
    #: `drain` was called, and everybody finished in time.
    DRAINED = "drained"
    #: The drain's deadline passed with somebody still at work, who was cancelled.
    OVERDUE = "overdue"
    #: `kill` was called.
    KILLED = "killed"


class Supervisor:
    """Runs one topology: owns the mailboxes, and the life and death of the actors.

    Args:
        topology: what to run.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._log = log.bind(topology=topology.name)
        self._children = [Child(spec) for spec in topology.start_order()]
        self._by_name = {child.spec.name: child for child in self._children}
        for child in self._children:
            child.context = Context(
                child.spec.name,
                mailbox=child.mailbox,
                emits=child.spec.emits,
                edges=[
                    (self._by_name[name].spec.accepts, self._by_name[name].mailbox)
                    for name in child.spec.to
                ],
                statistics=self.statistics,
            )
        self._waves = [[self._by_name[spec.name] for spec in wave] for wave in topology.waves()]
        self._scope = trio.CancelScope()
        self._draining = trio.Event()
        self._end = End.FINISHED
        self._failure: EscalationError | None = None
        self._restart_times: deque[float] = deque()

    def mailbox(self, name: str) -> Mailbox:
        """The mailbox of the actor of that name, to tell or ask it from outside the topology."""
        return self._by_name[name].mailbox

    def statistics(self) -> dict[str, ActorStatistics]:
        """The statistics of all actors by name, in start order."""
        return {name: child.statistics() for name, child in self._by_name.items()}

    def drain(self) -> None:
        """Stop in order: sources first, then each actor once all that tell it are done.

        Returns at once; `run` returns when the drain is over. During the start it takes effect
        after it. Once a drain or a kill is under way, it does nothing.
        """
        if self._end is End.FINISHED and not self._draining.is_set():
            self._end = End.DRAINED
            self._draining.set()

    def kill(self) -> None:
        """Cancel all actors; those that are saying their last words are cut short as well."""
        self._end = End.KILLED
        self._scope.cancel()
        for child in self._children:
            if child.run is not None:
                child.run.cut_short()

    async def run(self, *, ready: Callable[[], None] | None = None) -> End:
        """Start the actors, keep them alive, return when all have ended for good.

        Calls `ready` once all have started. Cancelled, it cancels the actors, which still get
        `stop_secs` each for their `stop`; errors they raise meanwhile leave with the cancellation.

        Raises:
            StartError: an actor's first start failed; `__cause__` is its error.
            RestartIntensityExceeded: an actor ended too often; `__cause__` is its last error.
        """
        self._ended, ended = trio.open_memory_channel[Run](math.inf)
        try:
            with self._ended, ended, self._scope:
                async with trio.open_nursery() as self._nursery:
                    await self._start_all()
                    if ready is not None:
                        ready()
                    self._nursery.start_soon(self._drain_when_told)
                    while not all(child.done.is_set() for child in self._children):
                        await self._decide(await ended.receive())
        finally:
            for child in self._children:
                child.finish()
        if self._failure is not None:
            raise self._failure
        return self._end

    async def _start_all(self) -> None:
        await trio.lowlevel.checkpoint()
        for child in self._children:
            run = await self._launch(child)
            if run.error is not None and not run.started:
                name = child.spec.name
                await self._give_up(
                    StartError(f"actor {name} does not start", actor=name), cause=run.error
                )

    async def _launch(self, child: Child) -> Run:
        child.run = run = Run(
            child, within=self._scope, stop_secs=self._topology.stop_secs, log=self._log
        )
        self._nursery.start_soon(run.live, self._ended, name=child.spec.name)
        await run.ready.wait()
        return run

    async def _give_up(self, failure: EscalationError, *, cause: BaseException | None) -> NoReturn:
        failure.__cause__ = cause
        self._failure = failure
        self._scope.cancel()
        await trio.sleep_forever()  # until that very cancellation, which unwinds `run`

    # -- decisions, one at a time ------------------------------------------------------------

    async def _decide(self, run: Run) -> None:
        await trio.lowlevel.checkpoint()
        child = run.child
        if run is not child.run:
            return  # ended in the restart of a sibling, which has seen to it
        if not run.wants_successor():
            self._finish(child)
            return
        excess = self._too_many_restarts(run)
        if excess is not None:
            await self._give_up(excess, cause=run.error)
        group = self._restarted_with(run)
        for member in reversed(group):
            await member.cancel()
        for member in group:
            # One that wants no successor is finished when its own report is read.
            if member.wants_successor():
                await self._restart(member.child)

    async def _restart(self, child: Child) -> None:
        child.restarts += 1
        self._log.warning("actor restarted", actor=child.spec.name, restarts=child.restarts)
        await self._launch(child)

    def _too_many_restarts(self, run: Run) -> RestartIntensityExceeded | None:
        topology, times, now = self._topology, self._restart_times, trio.current_time()
        times.append(now)
        while now - times[0] > topology.within_secs:
            times.popleft()
        if len(times) <= topology.max_restarts:
            return None
        name = run.child.spec.name
        return RestartIntensityExceeded(
            f"actor {name} ended again; its supervisor allows {topology.max_restarts} restarts "
            f"in {topology.within_secs:g} s",
            actor=name,
        )

    def _restarted_with(self, run: Run) -> list[Run]:
        strategy = self._topology.strategy
        if strategy == "one_for_one":
            return [run]
        first = 0 if strategy == "one_for_all" else self._children.index(run.child)
        return [
            child.run
            for child in self._children[first:]
            if child.run is not None and not child.done.is_set()
        ]

    def _finish(self, child: Child) -> None:
        child.finish()
        if all(source.done.is_set() for source in self._waves[0]):
            self._draining.set()

    # -- the drain ---------------------------------------------------------------------------

    async def _drain_when_told(self) -> None:
        await self._draining.wait()
        with trio.move_on_after(self._topology.drain_secs) as deadline:
            await trio.lowlevel.checkpoint()
            for wave in self._waves:
                for child in wave:
                    child.stop_accepting()
                for child in wave:
                    await child.done.wait()
        if deadline.cancelled_caught:
            self._end = End.OVERDUE
            late = [child.spec.name for child in self._children if not child.done.is_set()]
            self._log.warning("drain deadline passed", actors=late)
            self._scope.cancel()
