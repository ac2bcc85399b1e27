"""How suspicious a process is: points of its rules, plus what its surroundings add.

score = points + lineage bonus + rarity bonus + sequence bonus - what time has taken away.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

_LINEAGE_STEP = 5
_LINEAGE_MAX = 20
LINEAGE_DEPTH = 1 + _LINEAGE_MAX // _LINEAGE_STEP
"""Ancestors beyond this many add nothing."""
_RARITY_BY_COUNT = (25, 15, 15, 8, 8, 8)
_SEQUENCE_BONUS = 20
_DECAY_PERIOD_NS = 60_000_000_000
_DECAY_POINTS = 10
_SEVERITIES = ((150, "CRITICAL"), (100, "HIGH"), (50, "WARNING"))
_MAX_PAIRS = 16_384


def severity(score: int) -> str:
    """Return the word for a score: INFO, WARNING from 50, HIGH from 100, CRITICAL from 150."""
    return next((word for least, word in _SEVERITIES if score >= least), "INFO")


def lineage_bonus(ancestors: int) -> int:
    """Return 5 for each ancestor beyond the first, at most 20."""
    return min(_LINEAGE_MAX, _LINEAGE_STEP * max(0, ancestors - 1))


class Score(msgspec.Struct, frozen=True, gc=False):
    """The score of one process at one moment, with its parts."""

    total: int
    base: int
    """Points of the rules seen on the process, each once."""
    lineage: int
    rarity: int
    sequence: int


class ScoreSheet(msgspec.Struct, gc=False):
    """What was seen on one process; exists only for a process that raised an alert."""

    rules: tuple[str, ...] = ()
    """Ids of the rules that were seen."""
    base: int = 0
    sequence: int = 0
    lost: int = 0
    """Points that time took away before the latest rule."""
    last_ns: int = 0
    """When the latest new rule was seen."""

    def has(self, rule: str) -> bool:
        """Whether the rule of this id was already seen here."""
        return rule in self.rules

    def add(self, rule: str, *, points: int, sequence: bool, time_ns: int, bonus: int) -> None:
        """Count a rule; ``bonus`` is lineage and rarity: no more is lost than there was."""
        self.lost = self._lost_at(time_ns, bonus)
        self.last_ns = max(self.last_ns, time_ns)
        self.rules += (rule,)
        self.base += points
        if sequence:
            self.sequence = _SEQUENCE_BONUS

    def at(self, time_ns: int, *, lineage: int, rarity: int) -> Score:
        """Return the score at ``time_ns``; a time before the latest rule loses nothing more."""
        total = self.base + self.sequence + lineage + rarity
        return Score(
            total=max(0, total - self._lost_at(time_ns, lineage + rarity)),
            base=self.base,
            lineage=lineage,
            rarity=rarity,
            sequence=self.sequence,
        )

    def _lost_at(self, time_ns: int, bonus: int) -> int:
        periods = max(0, time_ns - self.last_ns) // _DECAY_PERIOD_NS if self.rules else 0
        return min(self.lost + _DECAY_POINTS * periods, self.base + self.sequence + bonus)


class RarityTable:
    """How often each program was seen to start each other one; the least recent pair goes first.

    A forgotten pair counts as new again: a flood of pairs makes alerts louder, never quieter.
    """

    def __init__(self, *, max_pairs: int = _MAX_PAIRS) -> None:
        self.dropped = 0
        self._max_pairs = max_pairs
        self.counts: OrderedDict[bytes, int] = OrderedDict()
        """By the digests of parent and child, one behind the other."""

    def __len__(self) -> int:
        return len(self.counts)

    def count(self, parent: bytes, child: bytes) -> int:
        """Count one start of ``child`` by ``parent``, digests of programs; return its bonus."""
        pair = parent + child
        seen = self.counts.pop(pair, 0)
        self.counts[pair] = seen + 1
        if len(self.counts) > self._max_pairs:
            self.counts.popitem(last=False)
            self.dropped += 1
        return _RARITY_BY_COUNT[seen] if seen < len(_RARITY_BY_COUNT) else 0
