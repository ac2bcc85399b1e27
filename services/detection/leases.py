"""Leases: which partitions this worker holds, and which it should."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
import trio

from services.detection.reach import Reach
from services.detection.state import BEAT_SECS, Beat, StateUnavailable

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Move:
    """What to do about partitions."""

    lost: frozenset[int] = frozenset()
    """Held until now, and somebody else's."""
    surplus: frozenset[int] = frozenset()
    """To give back: others have less than their share."""
    wanted: tuple[int, ...] = ()
    """Free, and within the share."""


def plan(held: frozenset[int], beat: Beat, *, partitions: int) -> Move:
    """What a worker should do after a beat. A share is all partitions over all workers, rounded up.

    Args:
        held: the partitions it held when it was heard of.
        beat: what it learned.
        partitions: how many there are.
    """
    share = -(-partitions // max(1, beat.workers))
    still = sorted(held & beat.held)
    room = max(0, share - len(still))
    return Move(
        lost=held - beat.held,
        surplus=frozenset(still[share:]),
        wanted=tuple(sorted(beat.free - held)[:room]),
    )


class Leases:
    """This worker's leases.

    Args:
        reach: the state.
        partitions: how many there are.
        worker: its name; made up if None.
    """

    def __init__(self, reach: Reach, *, partitions: int, worker: str | None = None) -> None:
        self.worker = worker or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.tokens: dict[int, int] = {}
        """Of the partitions held."""
        self.workers = 0
        """How many there were at the last beat."""
        self._reach = reach
        self._partitions = partitions
        self._above = 0
        self._move: Move | None = None
        self._fenced: frozenset[int] = frozenset()

    async def keep(self, told: Callable[[], None]) -> None:
        """Be heard of until cancelled; calls ``told`` when there may be something to `move`."""
        while True:
            held = dict(self.tokens)
            with contextlib.suppress(StateUnavailable):
                beat = await self._reach.once(
                    lambda state, held=held: state.beat(  # type: ignore[misc]
                        self.worker, held, partitions=self._partitions
                    )
                )
                self.workers = beat.workers
                self._move = plan(frozenset(held), beat, partitions=self._partitions)
                # Taken anew meanwhile, it is not lost.
                lost = {each for each in self._move.lost if self.tokens.get(each) == held[each]}
                self._move = replace(self._move, lost=frozenset(lost))
            told()
            await trio.sleep(BEAT_SECS)

    def move(self) -> Move:
        """What to do, once. Partitions taken or given back meanwhile are not in it."""
        found, self._move = self._move or Move(), None
        held = self.tokens.keys()
        fenced, self._fenced = self._fenced, frozenset()
        return Move(
            lost=(found.lost | fenced) & held,
            surplus=found.surplus & held,
            wanted=tuple(each for each in found.wanted if each not in held),
        )

    async def take(self, partitions: tuple[int, ...] | list[int]) -> None:
        """Lease what is free of these, or one's own anew.

        Raises:
            StateUnavailable: it is away; what it may have given runs out by itself.
        """
        taken = await self._reach.once(
            lambda state: state.take(self.worker, partitions, above=self._above)
        )
        self.tokens |= taken

    async def give_back(self, partitions: frozenset[int], *, leaving: bool = False) -> None:
        """Hold these no more. If the state is away they run out by themselves."""
        await trio.lowlevel.checkpoint()
        given = {
            partition: token for partition, token in self.tokens.items() if partition in partitions
        }
        self.drop(partitions)
        if given or leaving:
            with contextlib.suppress(StateUnavailable):
                await self._reach.once(
                    lambda state: state.give_back(self.worker, given, leaving=leaving)
                )

    def drop(self, partitions: frozenset[int]) -> None:
        """They are somebody else's."""
        for partition in partitions:
            self.tokens.pop(partition, None)

    def fenced(self, partitions: frozenset[int]) -> None:
        """A write says that they are somebody else's: to be given up with the next `move`."""
        self._fenced |= partitions

    def overtaken(self, token: int) -> None:
        """Somebody has, or had, a token as high: ask for a higher one."""
        self._above = max(self._above, token)
