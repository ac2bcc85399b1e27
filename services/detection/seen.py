"""Which of an agent's batches were processed, as runs of their numbers. Pure.

A batch comes again when a worker died, when the broker forgot an ack, and when ingest published it
twice. Several ingest processes may change the order of batches that are close to each other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Literal

import msgspec

_EPOCHS_MAX = 8
_RUNS_MAX = 64

Finding = Literal["new", "late", "repeat"]


class Seen:
    """Processed batches by epoch. What is forgotten for lack of room counts as new again.

    Args:
        runs: first and last number of each run, by epoch, in order.
    """

    def __init__(self, runs: dict[str, list[tuple[int, int]]] | None = None) -> None:
        self._epochs: OrderedDict[str, list[tuple[int, int]]] = OrderedDict(runs or {})

    @classmethod
    def decode(cls, raw: bytes) -> Seen:
        """As it was when it was encoded.

        Raises:
            msgspec.MsgspecError: it is no such thing.
        """
        return cls(msgspec.json.decode(raw, type=dict[str, list[tuple[int, int]]]))

    def encode(self) -> bytes:
        """For `decode`."""
        return msgspec.json.encode(self._epochs)

    def find(self, batch_id: str) -> Finding:
        """Whether a batch is new, or was here, or comes after ones that follow it."""
        epoch, number = _split(batch_id)
        runs = self._epochs.get(epoch)
        if not runs or number > runs[-1][1]:
            return "new"
        at = bisect_right(runs, (number, _FAR)) - 1
        return "repeat" if at >= 0 and number <= runs[at][1] else "late"

    def add(self, batch_id: str) -> None:
        """Note a batch that is processed."""
        epoch, number = _split(batch_id)
        runs = self._epochs.setdefault(epoch, [])
        self._epochs.move_to_end(epoch)
        if len(self._epochs) > _EPOCHS_MAX:
            self._epochs.popitem(last=False)
        if runs and runs[-1][1] == number - 1:  # nearly always
            runs[-1] = (runs[-1][0], number)
            return
        at = bisect_right(runs, (number, _FAR))
        if at and number <= runs[at - 1][1]:
            return
        runs.insert(at, (number, number))
        _join(runs, at)
        if len(runs) > _RUNS_MAX:
            del runs[0]


_FAR = 10**18


def _split(batch_id: str) -> tuple[str, int]:
    epoch, _, number = batch_id.rpartition("-")
    return epoch, int(number)


def _join(runs: list[tuple[int, int]], at: int) -> None:
    """Make one run of those that touch the one at a place."""
    first, last = runs[at]
    low, high = at, at + 1
    if at and runs[at - 1][1] == first - 1:
        low, first = at - 1, runs[at - 1][0]
    if high < len(runs) and runs[high][0] == last + 1:
        last, high = runs[high][1], high + 1
    runs[low:high] = [(first, last)]
