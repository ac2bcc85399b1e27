"""Progress: whether a part gets on with its work, for the health of its process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

STALLED_SECS = 60.0
"""A part that has work and finishes none of it for so long is not well."""
_REMEMBERED_SECS = 30.0
"""Work that was seen so long ago is not there any more: others have it, or it was given back."""


class Progress:
    """How long a part has had work without finishing any.

    A message that comes, fails and comes again is work that is not finished.

    Args:
        clock_secs: seconds of a clock that nobody sets.
    """

    def __init__(self, clock_secs: Callable[[], float] = time.monotonic) -> None:
        self._clock_secs = clock_secs
        self._seen = self._began = self._finished = -math.inf

    def has_work(self) -> None:
        """There is something to do; said again every few seconds while there is."""
        now = self._clock_secs()
        if now > self._seen + _REMEMBERED_SECS:
            self._began = now
        self._seen = now

    def finished(self, *, all_of_it: bool) -> None:
        """Something was done, or decided about; perhaps nothing is left."""
        self._finished = self._clock_secs()
        if all_of_it:
            self._seen = -math.inf

    def stalled_secs(self) -> float:
        """How long there has been work and none of it was finished; 0 without work."""
        now = self._clock_secs()
        if now > self._seen + _REMEMBERED_SECS:
            return 0.0
        return now - max(self._began, self._finished)

    def is_made(self) -> bool:
        """Whether the part gets on, or has nothing to do."""
        return self.stalled_secs() < STALLED_SECS
