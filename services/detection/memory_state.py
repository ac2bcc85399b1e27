"""State in the memory of one process: for one machine, where no other worker could share it.

It does not outlive the process. What is beyond its size goes, least recently used first; a worker
that still has the engine writes it again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from services.detection.state import (
    KEPT_SECS,
    LEASE_SECS,
    Append,
    Beat,
    Drop,
    Kept,
    Unit,
    Write,
    Written,
)

_SIZE_MAX_BYTES = 512 << 20


class MemoryState:
    """Implements `services.detection.state.State`.

    Args:
        size_max_bytes: of all snapshots and journals.
        clock_ms: Unix time in milliseconds, of which tokens are made.
    """

    def __init__(
        self,
        *,
        size_max_bytes: int = _SIZE_MAX_BYTES,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._size_max = size_max_bytes
        self._clock_ms = clock_ms
        self._workers: dict[str, float] = {}
        self._leases: dict[int, tuple[str, float]] = {}
        self._tokens: dict[int, int] = {}
        self._kept: OrderedDict[Unit, tuple[Kept, float]] = OrderedDict()
        self._bytes = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Nothing to do."""
        await trio.lowlevel.checkpoint()
        yield

    async def beat(self, worker: str, held: Mapping[int, int], *, partitions: int) -> Beat:
        """As in `State`."""
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        self._workers[worker] = now + LEASE_SECS
        self._workers = {name: until for name, until in self._workers.items() if until > now}
        still = set()
        for partition, token in held.items():
            if self._tokens.get(partition, 0) <= token:
                self._tokens[partition] = token
                self._leases[partition] = (worker, now + LEASE_SECS)
                still.add(partition)
        free = {number for number in range(partitions) if not self._holder(number)}
        return Beat(len(self._workers), frozenset(still), frozenset(free))

    async def take(
        self, worker: str, partitions: Sequence[int], *, above: int
    ) -> Mapping[int, int]:
        """As in `State`."""
        await trio.lowlevel.checkpoint()
        taken = {}
        for partition in partitions:
            if self._holder(partition) in ("", worker):
                token = max(self._tokens.get(partition, 0), above) + 1
                taken[partition] = self._tokens[partition] = max(token, self._clock_ms())
                self._leases[partition] = (worker, trio.current_time() + LEASE_SECS)
        return taken

    async def give_back(self, worker: str, held: Mapping[int, int], *, leaving: bool) -> None:
        """As in `State`."""
        await trio.lowlevel.checkpoint()
        for partition, token in held.items():
            if self._holder(partition) == worker and self._tokens[partition] == token:
                del self._leases[partition]
        if leaving:
            self._workers.pop(worker, None)

    async def load(self, units: Sequence[Unit]) -> Sequence[Kept | None]:
        """As in `State`."""
        await trio.lowlevel.checkpoint()
        found = []
        for unit in units:
            kept = self._find(unit)
            if kept is not None:
                self._keep(unit, kept)
            found.append(kept)
        return found

    async def save(self, writes: Sequence[Write]) -> Sequence[Written]:
        """As in `State`."""
        await trio.lowlevel.checkpoint()
        return [self._write(write) for write in writes]

    def _write(self, write: Write) -> Written:
        highest = self._tokens.get(write.partition, 0)
        if highest > write.token:
            return Written.FENCED
        self._tokens[write.partition] = write.token
        change, kept = write.change, self._find(write.unit)
        if isinstance(change, Drop):
            self._forget(write.unit)
            return Written.DONE
        if isinstance(change, Append):
            if write.version != (kept.version if kept is not None else 0):
                return Written.MISSING
            before = kept or Kept(0, None, (), b"")
            journal = (*before.journal, *change.journal)
            new = replace(before, journal=journal, seen=write.seen, version=write.version + 1)
        else:
            new = Kept(write.version + 1, change.snapshot, (), write.seen)
        self._keep(write.unit, new)
        return Written.DONE

    def _holder(self, partition: int) -> str:
        """Whose it is; empty for nobody's."""
        worker, until = self._leases.get(partition, ("", 0.0))
        return worker if until > trio.current_time() else ""

    def _find(self, unit: Unit) -> Kept | None:
        kept, until = self._kept.get(unit, (None, 0.0))
        return kept if until > trio.current_time() else None

    def _keep(self, unit: Unit, kept: Kept) -> None:
        self._forget(unit)
        self._kept[unit] = (kept, trio.current_time() + KEPT_SECS)
        self._bytes += _size(kept)
        while self._bytes > self._size_max and len(self._kept) > 1:
            self._forget(next(iter(self._kept)))

    def _forget(self, unit: Unit) -> None:
        kept, _ = self._kept.pop(unit, (None, 0.0))
        if kept is not None:
            self._bytes -= _size(kept)


def _size(kept: Kept) -> int:
    return len(kept.snapshot or b"") + sum(map(len, kept.journal)) + len(kept.seen)
