"""Sweeps: one look at all rings at one moment, so that their events can be put in order.

Several rings give no order between them. So the clock notes, at one moment, how far each ring is
filled; each reader whose ring holds something reads to that mark and no further, and the correlator
sorts the union by kernel time. A later sweep then holds only later events: what causes another
event is in its ring, written, before that one can happen. Only events on two processors that have
nothing to do with each other can come late, and those are counted.

One sweep is under way at a time: readers that wait for the correlator hold up the clock, and the
rings are the buffer.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import trio


class Turn(msgspec.Struct, frozen=True, gc=False):
    """A reader's part of a sweep."""

    sweep: int
    expected: int
    """Readers that take part."""
    limit: int
    """How far to read: bytes of a ring, or events of a recording."""
    final: bool
    """The last sweep: the reader ends after it."""


class Sweeps:
    """Hands turns to readers by the name of their ring."""

    def __init__(self) -> None:
        self._number = 0
        self._turns: dict[str, Turn] = {}
        self._parked: dict[str, trio.lowlevel.Task] = {}
        self._done = trio.Event()
        self._ended: set[str] = set()

    async def finished(self) -> None:
        """Wait until no sweep is under way."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._turns:
            if self._done.is_set():
                self._done = trio.Event()
            await self._done.wait()

    async def run(self, limits: Mapping[str, int], *, final: bool = False) -> None:
        """Run one sweep over the named rings; returns when every reader has finished.

        Cancelled, the turns stand and the readers finish them; the next sweep waits for that.
        """
        await self.finished()
        self.begin(limits, final=final)
        await self.finished()

    def begin(self, limits: Mapping[str, int], *, final: bool = False) -> None:
        """Begin a sweep over the named rings; only when the one before has `finished`.

        Rings that have had their final turn are left out.
        """
        if self._ended:
            limits = {ring: limit for ring, limit in limits.items() if ring not in self._ended}
        if not limits:
            return
        self._number += 1
        for ring, limit in limits.items():
            self._turns[ring] = Turn(self._number, len(limits), limit, final)
            reader = self._parked.pop(ring, None)
            if reader is not None:
                trio.lowlevel.reschedule(reader)

    async def next(self, ring: str) -> Turn | None:
        """Wait for the reader's next turn; None after its final one, even if that crashed.

        Cancelled, the turn stays to be taken.
        """
        if ring in self._turns or ring in self._ended:
            await trio.lowlevel.checkpoint()
        else:
            self._parked[ring] = trio.lowlevel.current_task()

            def give_up(_: object) -> trio.lowlevel.Abort:
                del self._parked[ring]
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(give_up)
        return self._turns.get(ring)

    def finish(self, ring: str) -> None:
        """Say that the reader is through with its turn, well or not."""
        turn = self._turns.pop(ring, None)
        if turn is not None and turn.final:
            self._ended.add(ring)
        if not self._turns:
            self._done.set()
