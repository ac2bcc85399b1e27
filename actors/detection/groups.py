"""Follows the sequences whose events belong together by a scope and by values they share.

A group is one sequence, one owner (a process, the root of a lineage, or the host) and one tuple of
values. It remembers the events of its steps within the sequence's time span, by their own time, and
completes when they suffice: all steps seen, in order where order is asked for, or one step often
enough or with enough different values. A completed group begins anew.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from typing import TypeAlias

import msgspec

from actors.detection.correlator import Chain, Link
from actors.detection.rules import Sequence

Values: TypeAlias = tuple[str, ...]
Key: TypeAlias = tuple[int, str, Values]
"""(sequence, owner, values)."""

EVENTS_MAX = 1000
"""Events that one group can remember."""
_MAX_GROUPS = 4096
_TEXT_MAX = 256


class Member(msgspec.Struct, frozen=True, order=True, gc=False):
    """One event of a group."""

    link: Link
    step: int
    value: str
    """What must differ, for a sequence that counts different values."""


class Groups:
    """The groups of one host; the least recently used goes first."""

    def __init__(self, sequences: tuple[Sequence, ...], *, default_secs: int) -> None:
        self.cut = 0
        """Groups dropped for lack of room."""
        self._sequences = sequences
        self._span_ns = tuple(
            (each.window_secs or default_secs) * 1_000_000_000 for each in sequences
        )
        self.members: OrderedDict[Key, list[Member]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.members)

    def advance(  # noqa: PLR0913 - what one event brings to its group
        self, sequence: int, step: int, link: Link, *, owner: str, values: Values, value: str
    ) -> Chain:
        """Take an event into its group; the events that complete it, empty if it is not complete.

        Args:
            sequence: Its index.
            step: Which step the event is.
            link: The event.
            owner: Whose it is, as text.
            values: Of the fields that must be the same.
            value: Of the field that must differ, or "".
        """
        key = (sequence, owner, tuple(each[:_TEXT_MAX] for each in values))
        members = self.members.setdefault(key, [])
        self.members.move_to_end(key)
        insort(members, Member(link, step, value[:_TEXT_MAX]))
        oldest_ns = members[-1].link.time_ns - self._span_ns[sequence]
        while members[0].link.time_ns < oldest_ns:
            del members[0]
        done = _complete(self._sequences[sequence], members)
        if done:
            del self.members[key]
        elif len(members) > EVENTS_MAX:
            del members[0]
            self.cut += 1
        if len(self.members) > _MAX_GROUPS:
            self.members.popitem(last=False)
            self.cut += 1
        return done

    def end(self, sequence: int, *, owner: str) -> None:
        """Forget what an owner has begun of a sequence."""
        for key in [key for key in self.members if key[0] == sequence and key[1] == owner]:
            del self.members[key]


def _complete(sequence: Sequence, members: list[Member]) -> Chain:
    """The events that suffice, in order of time; empty if they do not."""
    steps = len(sequence.steps)
    if steps == 1 and not sequence.distinct:
        return tuple(each.link for each in members) if len(members) >= sequence.count else ()
    if steps > 1 and sequence.ordered:
        return _in_order(steps, members)
    first: dict[str | int, Member] = {
        (each.value if sequence.distinct else each.step): each for each in reversed(members)
    }
    wanted = sequence.count if sequence.distinct else steps
    return tuple(each.link for each in sorted(first.values())) if len(first) >= wanted else ()


def _in_order(steps: int, members: list[Member]) -> Chain:
    """One event of each step, each after the one before."""
    found: list[Link] = []
    for each in members:
        if each.step == len(found) and (not found or found[-1] != each.link):
            found.append(each.link)
            if len(found) == steps:
                return tuple(found)
    return ()
