"""The test kit: an actor that records, and a stage to run one actor alone."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from actors.runtime.actor import Actor, Context
from actors.runtime.errors import true_error
from actors.runtime.mailbox import Mailbox
from actors.runtime.statistics import ActorStatistics


class Probe(Actor):
    """A consumer that accepts everything and appends it to a list the test holds."""

    accepts = (object,)

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def handle(self, message: Any) -> None:
        """Record the message."""
        self.seen.append(message)
        await trio.lowlevel.checkpoint()


class _Audience:
    """The far end of every edge of an actor on stage: has room for all, answers from a function."""

    has_room = True

    def __init__(self, told: list[Any], *, answer: Callable[[Any], Any]) -> None:
        self._told = told
        self._answer = answer

    def put_nowait(self, message: Any) -> bool:
        self._told.append(message)
        return True

    async def put(self, message: Any) -> None:
        raise AssertionError(message)  # `put_nowait` always succeeds

    async def ask(self, message: Any, *, within_secs: float) -> Any:
        with trio.fail_after(within_secs):
            await trio.lowlevel.checkpoint()
        return self._answer(message)


class Stage:
    """One actor at work alone, and everything it said.

    Attributes:
        actor: the actor.
        context: its context, with counters and `stopping`.
        told: the messages it told, in order.
    """

    def __init__(
        self,
        actor: Actor,
        *,
        answer: Callable[[Any], Any],
        statistics: Mapping[str, ActorStatistics],
    ) -> None:
        self.actor = actor
        self.told: list[Any] = []
        self.ended = trio.Event()
        self.context = Context(
            "actor",
            mailbox=Mailbox("actor", capacity=1024),
            emits=actor.emits,
            edges=[((object,), _Audience(self.told, answer=answer))],
            statistics=lambda: statistics,
        )
        actor.context = self.context

    async def tell(self, message: Any) -> None:
        """Tell the actor, and return when all tasks are at rest."""
        await self.context.mailbox.put(message)
        await trio.testing.wait_all_tasks_blocked()

    async def ask(self, message: Any, *, within_secs: float = 1.0) -> Any:
        """Ask the actor."""
        return await self.context.mailbox.ask(message, within_secs=within_secs)

    async def drain(self, *, within_secs: float = 1.0) -> None:
        """Stop the actor as a drain does, and wait for its last words.

        Raises:
            AssertionError: it is still alive after `within_secs`.
        """
        self.context.stopping.set()
        self.context.mailbox.close()
        with trio.move_on_after(within_secs):
            await self.ended.wait()
        if not self.ended.is_set():
            raise AssertionError(f"{type(self.actor).__name__} is alive after {within_secs} s")

    async def live(self) -> None:
        """The actor's life after its start: run, then stop."""
        await self.actor.run()
        self.context.mailbox.done()
        await self.actor.stop()
        self.ended.set()


@asynccontextmanager
async def run_actor(
    actor: Actor,
    *,
    answer: Callable[[Any], Any] = lambda _: None,
    statistics: Mapping[str, ActorStatistics] | None = None,
    within_secs: float = 1.0,
) -> AsyncIterator[Stage]:
    """Start an actor alone, run it beside the body, drain it at the end.

    An error of the actor leaves as itself, without a call of its `stop`. Cancelled, or if the body
    fails, it cancels the actor.

    Args:
        actor: the actor.
        answer: gives the reply to a message the actor asks.
        statistics: what the actor sees of its topology.
        within_secs: time for the drain.

    Raises:
        AssertionError: the actor is still alive after the drain.
    """
    stage = Stage(actor, answer=answer, statistics=statistics or {})
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await actor.start()
            nursery.start_soon(stage.live)
            yield stage
            await stage.drain(within_secs=within_secs)
    except BaseExceptionGroup as group:
        failure = true_error(group)
    # Raised here, not above: `raise from None` would wipe the cause the error itself has.
    if failure is not None:
        raise failure
