"""Token buckets: how many events an agent may send, and when it may send those beyond that.

Pure; time is what the caller says it is. Limits: each process has buckets of its own, so N of them
let through up to N times the rate.
"""

from __future__ import annotations

from collections import OrderedDict

from transport.subjects import Address

_AGENTS_MAX = 65_536


class Buckets:
    """A bucket for each agent; the least recently used goes first.

    A bucket may go into debt: every excess message gets a later moment of its own, at which there
    is a place for it, and so is put off once and not over and over.

    Args:
        rate_per_sec: events an agent may send for long.
        burst: events it may send at once after a pause.
    """

    def __init__(self, *, rate_per_sec: float, burst: int) -> None:
        self._rate = rate_per_sec
        self._burst = float(burst)
        self._buckets: OrderedDict[Address, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, address: Address, events: int, *, now_secs: float) -> float:
        """Take the tokens of a message; seconds until it may pass, 0 for now.

        A clock that goes back gives no tokens and takes none.
        """
        tokens, then_secs = self._buckets.pop(address, (self._burst, now_secs))
        gained = max(0.0, now_secs - then_secs) * self._rate
        tokens = min(self._burst, tokens + gained) - events
        self._buckets[address] = (tokens, max(now_secs, then_secs))
        if len(self._buckets) > _AGENTS_MAX:
            self._buckets.popitem(last=False)
        return 0.0 if tokens >= 0 else -tokens / self._rate

    def take_if_there(self, address: Address, events: int, *, now_secs: float) -> bool:
        """Take tokens only if the bucket has them; whether it did. Never into debt."""
        tokens, then_secs = self._buckets.get(address, (self._burst, now_secs))
        gained = max(0.0, now_secs - then_secs) * self._rate
        if min(self._burst, tokens + gained) < events:
            return False
        return not self.take(address, events, now_secs=now_secs)
