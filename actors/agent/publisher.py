"""The publisher: what detection saw, into the spool and from there to the broker.

A batch is closed at 500 events or after a moment, whichever comes first, and spooled before
anything else: only then do the rings give back its space, so a crash loses nothing. The broker's
ack removes it. Where the spool fails, events are counted as dropped and the agent goes on.

Alerts go first. The shipping to the broker runs beside the spooling and never holds it up.
"""

from __future__ import annotations

import math

import trio

from actors.agent.messages import Status, Telemetry
from actors.agent.spooling import Spooling
from actors.runtime import Actor

_FAREWELL_SECS = 2.0
_OWING_SECS = 1.0


class Publisher(Actor):
    """Spools and ships events, alerts and heartbeats.

    Args:
        work: what waits and what was counted, by this instance or one before; None to do nothing.
    """

    accepts = (Telemetry, Status)

    def __init__(self, work: Spooling | None) -> None:
        self._work = work

    async def run(self) -> None:
        """Spool until the mailbox is closed and empty; then say the last and let it be shipped."""
        work = self._work
        if work is None:
            await super().run()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.shipping.run)
            await self._take(work)
            await work.close(final=True)
            if work.owing:
                await work.close()
            with trio.move_on_after(_FAREWELL_SECS):
                await work.shipping.emptied()
            nursery.cancel_scope.cancel()

    async def handle(self, message: Telemetry | Status) -> None:  # noqa: ARG002 - as it says
        """Without publishing there is nothing to do with it."""
        await trio.lowlevel.checkpoint()

    async def _take(self, work: Spooling) -> None:
        mailbox = self.context.mailbox
        due = trio.current_time() if work.pending else math.inf  # seeds, or what a crash left
        while True:
            try:
                with trio.move_on_at(due) as waiting:
                    message = await mailbox.take()
            except trio.EndOfChannel:
                await trio.lowlevel.checkpoint()
                return
            if waiting.cancelled_caught:
                due = await self._close(work)
            elif isinstance(message, Status):
                await work.beat(message.record)
                mailbox.done()
            else:
                work.add(message)
                if work.full or work.alerts:
                    due = await self._close(work)
                elif due == math.inf:
                    due = trio.current_time() + work.batch_secs
                mailbox.done()

    async def _close(self, work: Spooling) -> float:
        """Close the batch; when the next one is due at the latest."""
        await work.close()
        return trio.current_time() + _OWING_SECS if work.owing else math.inf
