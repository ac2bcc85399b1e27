"""Follows the sequences whose events belong together by a scope and by values they share.

A group is one sequence, one owner (a process, the root of a lineage, or the host) and one tuple of
values. It remembers the events of its steps within the sequence's time span, by their own time, and
completes when they suffice: all steps seen, in order where order is asked for, or one step often
enough or with enough different values. A completed group begins anew.

Only what can still count is remembered: nobody pushes one step out by doing more of another. When
there is no room, the user and the lineage with most give up something; such a cut is noted.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from actors.detection.correlator import Chain, Link
from actors.detection.cuts import Cuts, Lost
from actors.detection.fair import FairTable, Owner
from actors.detection.processes import Process
from actors.detection.rules import Sequence
from actors.detection.text import shortened

Values: TypeAlias = tuple[str, ...]
Key: TypeAlias = tuple[int, str, Values]
"""(sequence, owner, values)."""

EVENTS_MAX = 1000
"""Events that one group can remember."""
_MAX_WEIGHT = 20_480
"""Groups of a host and events remembered in them; they travel in its snapshots."""
_EXACT_MAX = 64
"""Events of an ordered group up to which none is left out."""


class Member(msgspec.Struct, frozen=True, order=True, gc=False):
    """One event of a group."""

    link: Link
    step: int
    value: str
    """What must differ, for a sequence that counts different values."""


class Group(msgspec.Struct):
    """What is remembered of one group."""

    members: list[Member]
    owner: Owner
    """Whose act it was that began it."""
    program: str
    """What that process ran, printable."""

    @property
    def weight(self) -> int:
        """Itself and its events."""
        return 1 + len(self.members)


class Groups:
    """The groups of one host."""

    def __init__(self, sequences: tuple[Sequence, ...], *, default_secs: int, cuts: Cuts) -> None:
        self.cut = 0
        """Events of groups dropped for lack of room."""
        self._sequences = sequences
        self._span_ns = tuple(
            (each.window_secs or default_secs) * 1_000_000_000 for each in sequences
        )
        self._cuts = cuts
        self._table: FairTable[Key, Group] = FairTable(_MAX_WEIGHT)
        self.groups = self._table.entries
        """The one used longest ago first."""
        self._first_alike = tuple(_first_alike(each) for each in sequences)

    def __len__(self) -> int:
        return len(self.groups)

    def advance(  # noqa: PLR0913 - what one event brings to its group
        self,
        sequence: int,
        step: int,
        link: Link,
        process: Process,
        *,
        owner: str,
        values: Values,
        value: str,
    ) -> Chain:
        """Take an event into its group; the events that complete it, empty if it is not complete.

        Args:
            sequence: Its index.
            step: Which step the event is.
            link: The event.
            process: Who did it.
            owner: Whose it is, as text.
            values: Of the fields that must be the same.
            value: Of the field that must differ, or "".
        """
        key = (sequence, owner, tuple(map(shortened, values)))
        group = self._table.pop(key)
        if group is None:
            group = Group([], (process.uid, process.root), process.program.shown)
        members = group.members
        alike = self._first_alike[sequence]
        _take(
            self._sequences[sequence], alike, members, Member(link, alike[step], shortened(value))
        )
        oldest_ns = members[-1].link.time_ns - self._span_ns[sequence]
        while members[0].link.time_ns < oldest_ns:
            del members[0]
        done = _complete(self._sequences[sequence], alike, members)
        if done:
            return done
        if len(members) > EVENTS_MAX:
            self._note_cut([Lost(group.owner, group.program, members[0].link.time_ns)], link)
            del members[0]
        self.adopt(key, group)
        gone = self._table.make_room(is_spent=lambda each: self._is_spent(each, link.time_ns))
        self._note_cut((_lost(each) for _, each in gone), link)
        return ()

    def adopt(self, key: Key, group: Group) -> None:
        """Remember a group as the one used last."""
        self._table.put(key, group)

    def end(self, sequence: int, *, owner: str) -> None:
        """Forget what an owner has begun of a sequence."""
        for key in [key for key in self.groups if key[0] == sequence and key[1] == owner]:
            self._table.pop(key)

    def _is_spent(self, key: Key, now_ns: int) -> bool:
        """Whether all that a group remembers is too old to count."""
        return self.groups[key].members[-1].link.time_ns < now_ns - self._span_ns[key[0]]

    def _note_cut(self, lost: Iterable[Lost], link: Link) -> None:
        self.cut += self._cuts.note("partial_matches_cut", lost, time_ns=link.time_ns)


def _lost(group: Group) -> Lost:
    members = group.members
    return Lost(group.owner, group.program, members[0].link.time_ns, len(members))


def _first_alike(sequence: Sequence) -> tuple[int, ...]:
    """For each step its own number; where order is not asked for, that of the first one like it."""
    steps = list(sequence.steps)
    return tuple(
        number if sequence.ordered else steps.index(each) for number, each in enumerate(steps)
    )


def _take(
    sequence: Sequence, alike: tuple[int, ...], members: list[Member], member: Member
) -> None:
    """Add an event to those of its group, in order, and leave out what cannot count any more."""
    at = bisect(members, member)
    if len(sequence.steps) == 1:
        members.insert(at, member)
        if sequence.distinct:
            _keep_latest(members, [each.value == member.value for each in members], most=1)
    elif not sequence.ordered:
        if not at or members[at - 1] != member:  # else it is another step that is like this one
            members.insert(at, member)
            same = [each.step == member.step for each in members]
            _keep_latest(members, same, most=alike.count(member.step))
    else:
        members.insert(at, member)
        if len(members) > _EXACT_MAX:
            _thin(members, at)


def _keep_latest(members: list[Member], same: list[bool], *, most: int) -> None:
    """Of those that are the same, keep the latest: they expire last."""
    if sum(same) > most:
        del members[same.index(True)]


def _thin(members: list[Member], at: int) -> None:
    """Around a place, leave out one that has the same step before and behind it."""
    for middle in (at - 1, at, at + 1):
        if 0 < middle < len(members) - 1:
            before, each, behind = members[middle - 1 : middle + 2]
            if before.step == each.step == behind.step:
                del members[middle]
                return


def _complete(sequence: Sequence, alike: tuple[int, ...], members: list[Member]) -> Chain:
    """The events that suffice, in order of time; empty if they do not."""
    steps = len(sequence.steps)
    if steps == 1 and not sequence.distinct:
        return tuple(each.link for each in members) if len(members) >= sequence.count else ()
    if steps > 1 and sequence.ordered:
        return _in_order(steps, members)
    # Each of them counts: `_take` has kept one of each value, and as many of a step as are alike.
    wanted = sequence.count if sequence.distinct else len(alike)
    return tuple(each.link for each in members) if len(members) >= wanted else ()


def _in_order(steps: int, members: list[Member]) -> Chain:
    """One event of each step, each after the one before."""
    found: list[Link] = []
    for each in members:
        if each.step == len(found) and (not found or found[-1] != each.link):
            found.append(each.link)
            if len(found) == steps:
                return tuple(found)
    return ()
