"""The actor, and the context in which it runs: its name, its mailbox, its out-edges."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import structlog
import trio

from actors.runtime.errors import UndeclaredMessageError
from actors.runtime.mailbox import Mailbox, items_in
from actors.runtime.statistics import ActorStatistics


class Actor:
    """Base of all actors: one task, one mailbox, no state shared with another actor.

    Subclasses override what they need; the supervisor sets `context` before `start`. A consumer
    overrides `handle`, and `tick` if time matters to it; a source overrides `run`, or only `tick`
    if it is periodic. The order is `start`, `run`, `stop`, each in the same task, once for each
    instance. An error that leaves `start` or `run` ends this instance and a fresh one takes over.
    """

    #: Message types it handles, subclasses included; empty for a pure source.
    accepts: ClassVar[tuple[type, ...]] = ()
    #: Message types it tells to its out-edges, subclasses included.
    emits: ClassVar[tuple[type, ...]] = ()
    #: Seconds between calls of `tick`, measured from the end of one; None for no ticks.
    tick_secs: float | None = None
    #: Set by the supervisor before `start`.
    context: "Context"

    async def start(self) -> None:
        """Get ready; nobody that tells this actor runs yet. `stop` is not called if it fails."""
        await trio.lowlevel.checkpoint()

    async def handle(self, message: Any) -> Any:
        """Handle one message. What it returns is the reply if the message was asked."""
        raise NotImplementedError(f"{type(self).__name__} handles no {type(message).__name__}")

    async def tick(self) -> None:
        """Do what is due by time: called about every `tick_secs`, between messages."""
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Take, handle and tick until the mailbox is closed and empty.

        A source that overrides it loops until `context.stopping` is set, then empties what it
        reads from, tells the last of it, and returns. Cancelled, the message in hand is lost and
        counted as interrupted.
        """
        mailbox = self.context.mailbox
        pause = math.inf if self.tick_secs is None else self.tick_secs
        due = trio.current_time() + pause
        while True:
            if trio.current_time() >= due:
                await self.tick()
                due = trio.current_time() + pause
            try:
                if self.tick_secs is None:  # without a scope, which costs as much as the rest
                    mailbox.done(await self.handle(await mailbox.take()))
                    # What came together is handled together: a task switch for each message
                    # would cost more than handling it.
                    for _ in range(mailbox.depth):
                        mailbox.done(await self.handle(mailbox.take_nowait()))
                    continue
                with trio.move_on_at(due) as waiting:
                    message = await mailbox.take()
            except trio.EndOfChannel:
                await trio.lowlevel.checkpoint()
                return
            if waiting.cancelled_caught:
                await trio.lowlevel.checkpoint()
            else:
                mailbox.done(await self.handle(message))

    async def stop(self) -> None:
        """Say the last words and let go of resources, whether drained, crashed or cancelled.

        Called once after every `start` that succeeded, shielded from cancellation but for at most
        the topology's `stop_secs`. Those it tells are still there to hear it in a drain.
        """
        await trio.lowlevel.checkpoint()


class Inbox(Protocol):
    """The sender's side of a mailbox."""

    @property
    def has_room(self) -> bool:
        """Whether `put_nowait` would deal with a message."""

    def put_nowait(self, message: Any) -> bool:
        """Put a message; False if it is full and the caller should wait."""

    async def put(self, message: Any) -> None:
        """Put a message, waiting for a place."""

    async def ask(self, message: Any, *, within_secs: float) -> Any:
        """Put a message and wait for its reply."""


class Context:
    """What an actor may touch of the world: its mailbox, its out-edges, its logger.

    One context serves all instances of an actor; `stopping` and the counters outlive a crash.

    Args:
        name: the actor's name in its topology.
        mailbox: its own mailbox.
        emits: message types it may tell.
        edges: for each out-edge, in order, what the target accepts and where it receives.
        statistics: gives the statistics of all actors of the topology.
    """

    def __init__(
        self,
        name: str,
        *,
        mailbox: Mailbox,
        emits: tuple[type, ...],
        edges: Iterable[tuple[tuple[type, ...], Inbox]],
        statistics: Callable[[], Mapping[str, ActorStatistics]],
    ) -> None:
        self.name = name
        self.mailbox = mailbox
        #: Set when the actor should finish; `wait()` for it, or look at `is_set()`.
        self.stopping = trio.Event()
        #: Statistics of all actors of the topology by name, this one's included, as of now.
        self.statistics = statistics
        self.log: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(actor=name)
        self.sent = 0
        self.unsent = 0
        self.unrouted = 0
        self.items_unsent = 0
        self._emits = emits
        self._edges = tuple(edges)
        self._routes = {kind: self._find_route(kind) for kind in emits}

    async def tell(self, message: Any) -> None:
        """Put a message into every out-edge that accepts its type, in the order of the edges.

        Waits at each mailbox that is full under `block`, so a later edge gets the message after
        an earlier one has. Cancelled, the edges already passed have it and the rest are counted
        as unsent.

        Raises:
            UndeclaredMessageError: the type is not among the actor's `emits`.
        """
        targets = self._route(type(message))
        left = len(targets)
        try:
            await trio.lowlevel.checkpoint()
            for target in targets:
                if not target.put_nowait(message):
                    await target.put(message)
                left -= 1
        finally:
            self.sent += len(targets) - left
            if left:
                self.unsent += left
                self.items_unsent += left * items_in(message)
        if not targets:
            self.unrouted += 1

    def tell_nowait(self, message: Any) -> bool:
        """Tell without waiting: every out-edge that accepts the type gets the message, or none.

        Returns:
            False if one of them is full under `block`; nobody has the message then.

        Raises:
            UndeclaredMessageError: the type is not among the actor's `emits`.
        """
        targets = self._route(type(message))
        for target in targets:
            if not target.has_room:
                return False
        for target in targets:
            target.put_nowait(message)
        self.sent += len(targets)
        if not targets:
            self.unrouted += 1
        return True

    async def ask(self, message: Any, *, within_secs: float) -> Any:
        """The reply of the first out-edge that accepts the message's type.

        Cancelled, the target may still handle the message.

        Raises:
            UndeclaredMessageError: the type is not among `emits`, or no out-edge accepts it.
            AskError: no reply, for one of the reasons of `Mailbox.ask`.
        """
        targets = self._route(type(message))
        if not targets:
            raise UndeclaredMessageError(f"nobody answers {self.name}'s {type(message).__name__}")
        return await targets[0].ask(message, within_secs=within_secs)

    def _route(self, kind: type) -> tuple[Inbox, ...]:
        route = self._routes.get(kind)
        if route is None:
            if not issubclass(kind, self._emits):
                raise UndeclaredMessageError(f"{self.name} does not emit {kind.__name__}")
            route = self._routes[kind] = self._find_route(kind)
        return route

    def _find_route(self, kind: type) -> tuple[Inbox, ...]:
        return tuple(inbox for accepts, inbox in self._edges if issubclass(kind, accepts))
