"""The gaps of the recent past: what follows on one before joins it. Pure.

A flood opens a gap many times a second: each by itself, they would push out all others.
"""

from __future__ import annotations

from collections import deque

from transport.messages import I63_MAX, Gap

_JOINED_MAX_MS = 10_000
"""A joined gap is not longer: it stands for all of its span, in which alerts may look back."""


def note(gaps: deque[Gap], gap: Gap) -> None:
    """Add a gap, or make it part of one of the same reason that it follows on."""
    for place, before in enumerate(gaps):
        if (
            before.reason == gap.reason
            and before.from_unix_ms <= gap.from_unix_ms <= before.to_unix_ms
            and gap.to_unix_ms - before.from_unix_ms <= _JOINED_MAX_MS
        ):
            events = min((before.events or 0) + (gap.events or 0), I63_MAX)
            to_ms = max(before.to_unix_ms, gap.to_unix_ms)
            gaps[place] = Gap(before.from_unix_ms, to_ms, gap.reason, events or None)
            return
    gaps.append(gap)
