"""Evidence: whether everything in the window before an alert was seen. Pure.

Losses are noticed by comparing counters, so a gap reaches from one comparison to the next: it may
be wider than the loss, never narrower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from actors.alerting import note_cut
from actors.detection.cuts import Cut
from transport.gaps import note
from transport.messages import Evidence, Gap

_GAPS_MAX = 64


class EvidenceLog:
    """The gaps of the recent past.

    Args:
        watching_since_unix_ms: before this nobody watched; None where the probes had been running.
    """

    def __init__(self, *, watching_since_unix_ms: int | None) -> None:
        self._gaps: deque[Gap] = deque(maxlen=_GAPS_MAX)
        self._lost: dict[str, int] | None = None
        self._compared_ms = 0
        if watching_since_unix_ms is not None:
            self._gaps.append(Gap(0, watching_since_unix_ms, "not_watching"))

    def compare(
        self, probes: Mapping[str, Mapping[str, int]], *, dropped: int, now_unix_ms: int
    ) -> list[Gap]:
        """Take the counters of now; the gaps opened since the last time.

        Args:
            probes: each probe's counters, which only grow.
            dropped: events lost inside the agent, likewise.
            now_unix_ms: the time of the comparison.
        """
        lost = {
            f"{word}_in_kernel_{name}": counts.get(word, 0)
            for name, counts in probes.items()
            for word in ("lost", "throttled")
        } | {"dropped_by_agent": dropped}
        before, self._lost = self._lost, lost
        from_ms, self._compared_ms = self._compared_ms, now_unix_ms
        if before is None:
            return []
        found = []
        for reason, count in lost.items():
            missing = count - before.get(reason, 0)
            if missing > 0:
                found.append(Gap(from_ms, now_unix_ms, reason, missing))
                note(self._gaps, found[-1])
        return found

    def note(self, cut: Cut, *, boot_unix_ns: int) -> None:
        """Take what detection forgot."""
        note_cut(self._gaps, cut, boot_unix_ns=boot_unix_ns)

    def at(self, time_unix_ms: int, *, window_ms: int) -> Evidence:
        """What is missing from the window that ends at a moment."""
        begin_ms = time_unix_ms - window_ms
        found = [
            gap
            for gap in self._gaps
            if gap.to_unix_ms > begin_ms and gap.from_unix_ms <= time_unix_ms
        ]
        return found or "complete"
