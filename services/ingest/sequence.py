"""Sequence tracking: which of an agent's batches are missing, and which come again.

Pure. What it says is what this process has seen: several ingest processes share the messages, so
a gap here may be a batch that another one took. The ledger, which sees all, has the last word.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from transport.subjects import Address

_AGENTS_MAX = 65_536
_EPOCHS_MAX = 8
"""Of one agent: whoever names a new one in every message pushes out its own."""
_HOLES_MAX = 256


@dataclass(slots=True)
class _Track:
    next_seq: int
    holes: list[tuple[int, int]] = field(default_factory=list)
    """Missing runs, first and last, in order."""


@dataclass(slots=True)
class SequenceCounts:
    """What was noticed since the start."""

    gaps: int = 0
    """Runs of missing events that were opened."""
    gap_events: int = 0
    """Events missing when they were."""
    filled_events: int = 0
    """Of these, events that came later."""
    repeats: int = 0
    """Batches of which every event was there before."""
    forgotten: int = 0
    """Epochs and missing runs no longer followed, for lack of room."""


class Sequences:
    """Follows each epoch's sequence numbers; the least recently heard of goes first."""

    def __init__(self) -> None:
        self.counts = SequenceCounts()
        self._agents: OrderedDict[Address, OrderedDict[str, _Track]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._agents.values()))

    def observe(self, address: Address, epoch: str, first: int, last: int) -> None:
        """Take note of a batch.

        Args:
            address: whose it is.
            epoch: of which of its lives.
            first: its first sequence number.
            last: its last; ``first - 1`` for a batch without events.
        """
        track = self._track(address, epoch, first)
        if first > track.next_seq:
            self.counts.gaps += 1
            self.counts.gap_events += first - track.next_seq
            track.holes.append((track.next_seq, first - 1))
            if len(track.holes) > _HOLES_MAX:
                del track.holes[0]
                self.counts.forgotten += 1
        elif first <= last < track.next_seq and not self._fill(track, first, last):
            self.counts.repeats += 1
        track.next_seq = max(track.next_seq, last + 1)

    def _track(self, address: Address, epoch: str, first: int) -> _Track:
        epochs = self._agents.get(address)
        if epochs is None:
            epochs = self._agents[address] = OrderedDict()
            if len(self._agents) > _AGENTS_MAX:
                _, forgotten = self._agents.popitem(last=False)
                self.counts.forgotten += len(forgotten)
        self._agents.move_to_end(address)
        track = epochs.get(epoch)
        if track is None:
            # The first that is heard may be the middle: what came before is not ours to miss.
            track = epochs[epoch] = _Track(first)
            if len(epochs) > _EPOCHS_MAX:
                epochs.popitem(last=False)
                self.counts.forgotten += 1
        epochs.move_to_end(epoch)
        return track

    def _fill(self, track: _Track, first: int, last: int) -> bool:
        """Close what a late batch closes; whether it closed anything."""
        holes = []
        filled = 0
        for begin, end in track.holes:
            low, high = max(begin, first), min(end, last)
            if low > high:
                holes.append((begin, end))
                continue
            filled += high - low + 1
            if begin < low:
                holes.append((begin, low - 1))
            if high < end:
                holes.append((high + 1, end))
        track.holes = holes
        self.counts.filled_events += filled
        return filled > 0
