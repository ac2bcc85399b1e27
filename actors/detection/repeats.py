"""How often each rule has fired in each lineage, and on what: what makes one alert of many.

A rule fires *on* a target: a file, an address, a program. A target that is new to a rule in a
lineage begins an alert of its own, told at once; what fires on it again is a repeat of that alert.
So that decoys are bounded, only some targets of a rule and lineage are told so; what is beyond is
one alert together. The host's own files come before look-alikes and are told for themselves.

By the events' own time: what has been quiet for the span begins at one again. Where there is no
room, those who have most are forgotten (`fair.py`): their next alert begins anew.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from actors.detection.events import Identity
from actors.detection.fair import FairTable, Owner
from actors.detection.targets import Rank, Target

Key: TypeAlias = tuple[str, Identity]
"""(rule id, root of the lineage)."""

_SPAN_NS = 3600 * 1_000_000_000
_MAX_WEIGHT = 16_384
"""Counts and targets of all lineages."""
_MAX_KNOWN = 512
"""Targets of one rule and lineage that are told apart."""
_MAX_NAMES = 16
"""Targets that an alert names."""
_MAX_TOLD = {Rank.OTHER: 16, Rank.OWN: 64}
"""Targets told for themselves; `Rank.LISTED` are as many as the list has."""


class Fired(msgspec.Struct, array_like=True):
    """How often a rule has fired in a lineage, and on what."""

    owner: Owner
    last_ns: int
    times: int = 0
    told: dict[Rank, int] = {}
    """How many targets were told for themselves."""
    known: dict[bytes, bool] = {}
    """Digests of targets, and whether they were told for themselves."""
    names: dict[str, Rank] = {}
    """Targets as they read, the newest last."""
    left_out: int = 0
    """Targets that were not told for themselves."""

    @property
    def weight(self) -> int:
        """Itself and what it knows."""
        return 1 + len(self.known)


class Firing(msgspec.Struct, frozen=True, gc=False):
    """What a rule's firing is: an alert, or the repeat of one."""

    count: int
    """How often the rule has fired in the lineage, this time included."""
    told: bool
    """Whether it is worth telling."""
    first: bool
    """Whether it begins an alert of its own."""
    target: str = ""
    """What its repeats have in common; empty for all that is not told for itself."""
    targets: tuple[str, ...] = ()
    """What the rule fired on so far, the newest last."""
    left_out: int = 0
    """How many targets were not told for themselves."""


class Repeats:
    """Counts by rule and lineage."""

    def __init__(self) -> None:
        self._table: FairTable[Key, Fired] = FairTable(_MAX_WEIGHT)
        self.fired = self._table.entries
        """The one that fired longest ago first."""

    def knows(self, key: Key, target: Target) -> bool:
        """Whether a rule has fired on a target in a lineage before."""
        fired = self.fired.get(key)
        return fired is not None and target.digest in fired.known

    def count(self, key: Key, target: Target | None, *, owner: Owner, time_ns: int) -> Firing:
        """Count one more.

        Args:
            key: What has fired, and where.
            target: On what; None for a rule that is about no one thing.
            owner: Whose act it was.
            time_ns: The event's own time.
        """
        fired = self._table.pop(key)
        if fired is None or time_ns - fired.last_ns > _SPAN_NS:
            fired = Fired(owner, time_ns)
        fired.times += 1
        fired.last_ns = max(fired.last_ns, time_ns)
        first, alone = (fired.times == 1, "") if target is None else _meet(fired, target)
        self.adopt(key, fired)
        self._table.make_room()
        told = first or worth_telling(fired.times)
        return Firing(fired.times, told, first, alone, tuple(fired.names), fired.left_out)

    def adopt(self, key: Key, fired: Fired) -> None:
        """Remember a count as the one that fired last."""
        self._table.put(key, fired)


def _meet(fired: Fired, target: Target) -> tuple[bool, str]:
    """Take note of a target; whether it begins an alert, and under what its repeats are found."""
    _name(fired, target)
    alone = fired.known.get(target.digest)
    if alone is not None:
        return False, target.digest.hex() if alone else ""
    told = fired.told.get(target.rank, 0)
    if told < _MAX_TOLD.get(target.rank, told + 1):
        fired.told[target.rank] = told + 1
        fired.known[target.digest] = True
        return True, target.digest.hex()
    if len(fired.known) < _MAX_KNOWN:
        fired.known[target.digest] = False
    fired.left_out += 1
    return fired.left_out == 1, ""


def _name(fired: Fired, target: Target) -> None:
    """Have a target among those that an alert names; look-alikes make room for the host's own."""
    names = fired.names
    names.pop(target.text, None)
    names[target.text] = target.rank
    if len(names) > _MAX_NAMES:
        del names[min(names, key=lambda text: names[text])]


def worth_telling(count: int) -> bool:
    """Whether a repeat is told: the 1st, 2nd, 4th, 8th … are, the others only counted."""
    return count & (count - 1) == 0
