"""Running a topology as a program: signals in, exit reason and final statistics out."""

import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import structlog
import trio

from actors.runtime.errors import EscalationError, StartError
from actors.runtime.spec import Topology
from actors.runtime.statistics import ActorStatistics
from actors.runtime.supervisor import End, Supervisor

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class ExitReason(Enum):
    """Why a topology ended; the value is the process's exit code, after `sysexits.h`."""

    #: All sources ended by themselves, or a signal asked for it; everybody finished in time.
    DRAINED = 0
    #: An actor did not start (EX_UNAVAILABLE).
    START_FAILED = 69
    #: An actor ended more often than its supervisor allows (EX_SOFTWARE).
    ESCALATED = 70
    #: The drain's deadline passed (EX_TEMPFAIL).
    OVERDUE = 75
    #: A second signal came (128 + SIGINT, as shells have it).
    KILLED = 130


_REASONS = {
    End.FINISHED: ExitReason.DRAINED,
    End.DRAINED: ExitReason.DRAINED,
    End.OVERDUE: ExitReason.OVERDUE,
    End.KILLED: ExitReason.KILLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a topology ended."""

    #: Why.
    reason: ExitReason
    #: The last statistics of each actor, in start order.
    statistics: Mapping[str, ActorStatistics]
    #: What the supervisor raised; its `__cause__` is the actor's own error. None if it returned.
    error: EscalationError | None

    @property
    def undelivered(self) -> int:
        """Messages left in mailboxes."""
        return sum(statistics.undelivered for statistics in self.statistics.values())


async def run_topology(topology: Topology, *, ready: Callable[[], None] | None = None) -> Outcome:
    """Run a topology until it ends by itself or by SIGINT or SIGTERM.

    The first signal drains, the second leaves at once. Must run in the main thread. Cancelled, it
    cancels the actors.

    Args:
        topology: what to run.
        ready: called once when all actors have started; must not raise.
    """
    supervisor = Supervisor(topology)
    error: EscalationError | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, supervisor)
            try:
                reason = _REASONS[await supervisor.run(ready=ready)]
            except EscalationError as caught:
                error = caught
                reason = (
                    ExitReason.START_FAILED
                    if isinstance(caught, StartError)
                    else ExitReason.ESCALATED
                )
            nursery.cancel_scope.cancel()
    return Outcome(reason=reason, statistics=supervisor.statistics(), error=error)


async def _obey(signals: AsyncIterator[int], supervisor: Supervisor) -> None:
    draining = False
    async for number in signals:
        if draining:
            log.warning("leaving at once", signal=signal.Signals(number).name)
            supervisor.kill()
        else:
            log.info("draining", signal=signal.Signals(number).name)
            supervisor.drain()
            draining = True
