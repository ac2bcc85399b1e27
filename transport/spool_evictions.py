"""What the spool gave up: runs of sequence numbers to tell the backend, and totals that only grow.

Pure: `transport.spool` writes it down in the transaction of the eviction itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from transport.messages import Evicted

Kind: TypeAlias = Literal["telemetry", "alert"]
RUNS_MAX = 1024
"""Runs of a log at most; what `transport.messages.Counters` can carry."""
TOTALS_MAX = 256
"""Totals of a log at most; beyond, the oldest epochs are summed up under ``epoch = ""``."""


class Loss(msgspec.Struct, frozen=True):
    """How much left the spool unsent, of one kind, reason and epoch."""

    kind: Kind
    reason: str
    """``bytes`` or ``age`` (a bound of the spool), ``corrupt`` (a damaged row), ``refused`` (the
    broker can never take it)."""
    epoch: str
    items: int
    """Batches or alerts."""
    events: int
    """Events in these batches; 0 for alerts."""


class Gone(NamedTuple):
    """An item that left the spool unsent."""

    kind: Kind
    reason: str
    epoch: str
    first_seq: int
    events: int


class EvictionLog(msgspec.Struct):
    """Runs not yet told to the backend, and totals since the file was made."""

    runs: list[Evicted] = []
    """Adjacent runs of one epoch and reason are one. Beyond `RUNS_MAX` the nearest ones are made
    one as well: such a run spans events that were sent, so it says where to look, not how many."""
    totals: list[Loss] = []
    """Exact, whatever happens to the runs. Sums of epochs long gone are under ``epoch = ""``."""
    untold_events: int = 0
    """Events of runs forgotten because more than `RUNS_MAX` epochs and reasons had one."""

    def copy(self) -> EvictionLog:
        """Another log that says the same."""
        return EvictionLog(list(self.runs), list(self.totals), self.untold_events)

    def add(self, gone: Sequence[Gone]) -> list[Loss]:
        """Note that items are gone; what they were, added up."""
        losses = add_up(Loss(each.kind, each.reason, each.epoch, 1, each.events) for each in gone)
        self.totals = add_up([*self.totals, *losses])
        while len(self.totals) > TOTALS_MAX:
            oldest = next(each.epoch for each in self.totals if each.epoch)
            self.totals = add_up(_without_epoch(each, oldest) for each in self.totals)
        for run in _runs(gone):
            self.add_run(run)
        return losses

    def add_run(self, new: Evicted) -> None:
        """Note a run, without counting its events."""
        apart: list[Evicted] = []
        first, last = new.first_seq, new.last_seq
        for run in self.runs:
            touches = run.first_seq <= last + 1 and run.last_seq >= first - 1
            if touches and _key(run) == _key(new):
                first, last = min(first, run.first_seq), max(last, run.last_seq)
            else:
                apart.append(run)
        self.runs = [*apart, Evicted(new.epoch, first, last, new.reason)]
        if len(self.runs) > RUNS_MAX:
            self._coarsen()

    def _coarsen(self) -> None:
        """Make one run of the two nearest of one epoch and reason, or forget the oldest."""
        ordered = sorted(self.runs, key=lambda run: (*_key(run), run.first_seq))
        neighbours = [
            (right.first_seq - left.last_seq, left, right)
            for left, right in pairwise(ordered)
            if _key(left) == _key(right)
        ]
        if not neighbours:
            gone = self.runs.pop(0)
            self.untold_events += gone.last_seq - gone.first_seq + 1
            return
        _, left, right = min(neighbours, key=lambda each: each[0])
        at = self.runs.index(left)
        self.runs[at] = Evicted(left.epoch, left.first_seq, right.last_seq, left.reason)
        self.runs.remove(right)

    def told(self, told: Iterable[Evicted]) -> None:
        """Forget what the backend now knows; a run that has grown since keeps the rest."""
        for known in told:
            self.runs = [rest for run in self.runs for rest in _minus(run, known)]


def add_up(losses: Iterable[Loss]) -> list[Loss]:
    """One loss for each kind, reason and epoch, in the order of their first."""
    sums: dict[tuple[Kind, str, str], tuple[int, int]] = {}
    for each in losses:
        key = (each.kind, each.reason, each.epoch)
        items, events = sums.get(key, (0, 0))
        sums[key] = (items + each.items, events + each.events)
    return [Loss(*key, *counts) for key, counts in sums.items()]


def _runs(gone: Sequence[Gone]) -> Iterator[Evicted]:
    """The sequence numbers of items; of a long row of batches, one run."""
    run: Evicted | None = None
    for each in gone:
        if not each.events:
            continue
        new = Evicted(each.epoch, each.first_seq, each.first_seq + each.events - 1, each.reason)
        if run is not None and _key(run) == _key(new) and run.last_seq + 1 == new.first_seq:
            run = Evicted(run.epoch, run.first_seq, new.last_seq, run.reason)
        else:
            if run is not None:
                yield run
            run = new
    if run is not None:
        yield run


def _without_epoch(loss: Loss, epoch: str) -> Loss:
    return msgspec.structs.replace(loss, epoch="") if loss.epoch == epoch else loss


def _key(run: Evicted) -> tuple[str, str]:
    return run.epoch, run.reason


def _minus(run: Evicted, known: Evicted) -> Iterable[Evicted]:
    """What of a run is outside another."""
    if _key(run) != _key(known) or known.last_seq < known.first_seq:
        return [run]
    ends = (
        (run.first_seq, min(run.last_seq, known.first_seq - 1)),
        (max(run.first_seq, known.last_seq + 1), run.last_seq),
    )
    return [Evicted(run.epoch, *end, run.reason) for end in ends if end[0] <= end[1]]
