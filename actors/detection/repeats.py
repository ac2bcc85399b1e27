"""How often each rule has fired in each lineage: what makes one alert with a count of many.

By the events' own time: what has been quiet for the span begins at one again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from actors.detection.events import Identity

Key: TypeAlias = tuple[str, Identity]
"""(rule id, root of the lineage)."""

_SPAN_NS = 3600 * 1_000_000_000
_MAX_KEPT = 8192


class Repeats:
    """Counts; the least recently raised goes first."""

    def __init__(self) -> None:
        self.counts: OrderedDict[Key, tuple[int, int]] = OrderedDict()
        """How often, and when last."""

    def count(self, key: Key, time_ns: int) -> int:
        """Count one more; how many it were, this one included."""
        times, last_ns = self.counts.pop(key, (0, time_ns))
        times = 1 if time_ns - last_ns > _SPAN_NS else times + 1
        self.counts[key] = (times, max(last_ns, time_ns))
        if len(self.counts) > _MAX_KEPT:
            self.counts.popitem(last=False)
        return times


def worth_telling(count: int) -> bool:
    """Whether a repeat is told: the 1st, 2nd, 4th, 8th … are, the others only counted."""
    return count & (count - 1) == 0
