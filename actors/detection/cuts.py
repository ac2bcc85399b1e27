"""What detection had to forget for lack of room: an alert of its own, and evidence of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, TypeAlias, TypeVar

import msgspec

from actors.detection.events import Identity
from actors.detection.fair import Owner

T = TypeVar("T")
Kind: TypeAlias = Literal["partial_matches_cut", "processes_forgotten"]
"""Why what follows may be missing, as evidence says it."""


class Lost(msgspec.Struct, frozen=True, gc=False):
    """One thing that was forgotten."""

    owner: Owner
    program: str
    """What its process ran, printable."""
    since_ns: int
    """From when on it was remembered."""
    count: int = 1


class Cut(msgspec.Struct, frozen=True, gc=False):
    """What was forgotten at one moment."""

    kind: Kind
    from_ns: int
    """When the oldest of it began."""
    to_ns: int
    """When it was forgotten."""
    count: int
    owner: Owner
    """Whose most of it was."""
    program: str
    """What most of that owner's ran."""

    @property
    def root(self) -> Identity:
        """The lineage whose most of it was."""
        return self.owner[1]


class Cuts:
    """What was forgotten since the engine last looked."""

    def __init__(self) -> None:
        self.pending: list[Cut] = []

    def note(self, kind: Kind, lost: Iterable[Lost], *, time_ns: int) -> int:
        """Take note of what is forgotten; how much it is."""
        lost = list(lost)
        if not lost:
            return 0
        user = _greatest((each.owner[0], each.count) for each in lost)
        theirs = [each for each in lost if each.owner[0] == user]
        owner = _greatest((each.owner, each.count) for each in theirs)
        program = _greatest((each.program, each.count) for each in theirs if each.owner == owner)
        count = sum(each.count for each in lost)
        since_ns = min(each.since_ns for each in lost)
        self.pending.append(Cut(kind, min(since_ns, time_ns), time_ns, count, owner, program))
        return count


def _greatest(counted: Iterable[tuple[T, int]]) -> T:
    sums: Counter[T] = Counter()
    for what, count in counted:
        sums[what] += count
    return sums.most_common(1)[0][0]
