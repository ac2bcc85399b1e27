"""A supervised actor: what lasts over all its instances, and the life of one of them.

`Run.live` is the crash barrier. It records what happened and reports the end; what follows from
that, the supervisor decides. So a child's error never travels through the supervisor's nursery,
which would wrap it.
"""

import math

import structlog
import trio

from actors.runtime.actor import Context
from actors.runtime.errors import true_error
from actors.runtime.mailbox import Mailbox
from actors.runtime.spec import ChildSpec
from actors.runtime.statistics import ActorStatistics


class Child:
    """One actor over all its instances: its spec, its mailbox, its counters."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.mailbox = Mailbox(spec.name, capacity=spec.capacity, overflow=spec.overflow)
        #: Set by the supervisor, since it needs the mailboxes of all others.
        self.context: Context
        #: The latest instance; None before the first.
        self.run: Run | None = None
        #: Set when it has ended for good.
        self.done = trio.Event()
        self.crashes = 0
        self.restarts = 0

    def stop_accepting(self) -> None:
        """Tell the actor to finish, and everybody else that nothing more gets in."""
        self.context.stopping.set()
        self.mailbox.close()

    def finish(self) -> None:
        """Nobody will take over: close the mailbox and count what is left in it. Idempotent."""
        self.stop_accepting()
        self.mailbox.discard()
        self.done.set()

    def statistics(self) -> ActorStatistics:
        """The counters as of now."""
        mailbox, context = self.mailbox, self.context
        return ActorStatistics(
            received=mailbox.received,
            handled=mailbox.handled,
            **mailbox.losses,
            items_dropped=mailbox.items_dropped + context.items_unsent,
            sent=context.sent,
            unsent=context.unsent,
            unrouted=context.unrouted,
            crashes=self.crashes,
            restarts=self.restarts,
            depth=mailbox.depth,
            in_hand=int(mailbox.in_hand is not None),
            capacity=mailbox.capacity,
            senders_blocked=mailbox.senders_blocked,
        )


class Run:
    """One instance of an actor, from its factory to the end of its `stop`.

    Args:
        child: whose instance.
        within: the supervisor's own scope, to tell its cancellation from one that comes from
            outside.
        stop_secs: time for the actor's `stop`.
        log: the supervisor's logger.
    """

    def __init__(
        self,
        child: Child,
        *,
        within: trio.CancelScope,
        stop_secs: float,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.child = child
        #: Set when `start` has returned or failed.
        self.ready = trio.Event()
        #: Set when the instance has ended.
        self.ended = trio.Event()
        #: Whether `start` has returned.
        self.started = False
        #: What left `start` or `run`.
        self.error: BaseException | None = None
        self._scope = trio.CancelScope()
        self._farewell = trio.CancelScope()
        self._within = within
        self._stop_secs = stop_secs
        self._log = log.bind(actor=child.spec.name)

    async def live(self, ended: "trio.MemorySendChannel[Run]") -> None:
        """Make the actor, start it, run it, stop it; then report to `ended`, whatever happened.

        Cancelled, the message in hand is lost, and `stop` is still called. An error that meets a
        cancellation from outside the supervisor leaves with it, for nobody is left to decide.
        """
        child = self.child
        try:
            await trio.lowlevel.checkpoint()
            with self._scope:
                try:
                    actor = child.spec.factory()
                    actor.context = child.context
                    await actor.start()
                    self.started = True
                    self.ready.set()
                    await actor.run()
                    child.mailbox.done()
                except* Exception as caught:
                    # `except*` splits a group that mixes errors with a Cancelled: the errors come
                    # here, the Cancelled goes on to the scope it belongs to.
                    self.error = true_error(caught)
                    self._log_crash(self.error)
                    child.mailbox.lose_in_hand("poisoned")
                    if self._cancelled_from_outside():
                        raise
        finally:
            self.ready.set()
            child.mailbox.lose_in_hand("interrupted")
            if self.started:
                with trio.move_on_after(self._stop_secs, shield=True) as self._farewell:
                    await trio.lowlevel.checkpoint()
                    try:
                        await actor.stop()
                    except* Exception as caught:  # noqa: BLE001 -- the barrier logs and counts it
                        # It decides nothing: an instance that has ended needs no restart.
                        self._log_crash(true_error(caught))
                if self._farewell.cancelled_caught:
                    self._log.warning("actor stop cut short")
            self.ended.set()
            ended.send_nowait(self)

    async def cancel(self) -> None:
        """Cancel the instance and wait for its end; one that has ended keeps its own reason."""
        if not self.ended.is_set():
            self._scope.cancel()
        await self.ended.wait()

    def cut_short(self) -> None:
        """Leave no time for last words, not even for those being said now."""
        self._stop_secs = 0.0
        self._farewell.cancel()

    def wants_successor(self) -> bool:
        """Whether, now that this instance has ended, its restart type asks for a fresh one."""
        # Not `cancel_called`: it may have come when `run` had already returned by itself.
        interrupted = self.error is not None or self._scope.cancelled_caught
        if self.child.context.stopping.is_set() and not interrupted:
            return False
        restart = self.child.spec.restart
        return restart == "permanent" or (restart == "transient" and interrupted)

    def _log_crash(self, error: BaseException) -> None:
        self.child.crashes += 1
        self._log.error("actor crashed", message_type=self.child.mailbox.in_hand, exc_info=error)

    def _cancelled_from_outside(self) -> bool:
        ours = self._scope.cancel_called or self._within.cancel_called
        return not ours and trio.current_effective_deadline() == -math.inf
