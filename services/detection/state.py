"""Shared state: what workers know of agents and of each other, outside of any of them.

Of a *unit*, one boot of one agent, it keeps a snapshot of its engine, the journal of what was
processed since, and which batches were. An engine is deterministic: the snapshot and then the
journal give the engine as it was.

A partition is *leased* to a worker under a token that only grows. What is written under a token
that is not the highest is refused: a worker that slept through the loss of a partition does no harm
when it wakes. A token that is not on record, for the state came back empty, is put on record again.

Everything is bounded and expires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

LEASE_SECS = 3.0
"""A worker that is not heard of for so long has lost its partitions."""
BEAT_SECS = 1.0
"""How often a worker is heard of."""
KEPT_SECS = 48 * 3600
"""How long what is not used is kept."""
JOURNAL_MAX_BATCHES = 64
JOURNAL_MAX_BYTES = 16 << 20
"""A journal that would grow beyond either is replaced by a snapshot."""
SNAPSHOT_MAX_BYTES = 16 << 20
"""A larger one is not kept: who takes over begins anew, and it is counted."""


class StateUnavailable(Exception):  # noqa: N818 - it says what is so
    """The state cannot be reached, or takes nothing now; the text says why. Try again."""


class Unit(NamedTuple):
    """One boot of one agent, which is what an engine follows."""

    tenant_id: str
    agent_id: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a unit."""

    version: int
    """Counts the writes."""
    snapshot: bytes | None
    """None if the journal begins with the unit's first batch."""
    journal: Sequence[bytes]
    """Payloads since, as they were processed."""
    seen: bytes
    """Which batches were, in the writer's encoding."""


@dataclass(frozen=True, slots=True)
class Append:
    """What was processed since the last write."""

    journal: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Replace:
    """The whole engine, in place of snapshot and journal."""

    snapshot: bytes | None


@dataclass(frozen=True, slots=True)
class Drop:
    """The unit is of no more use."""


@dataclass(frozen=True, slots=True)
class Write:
    """What to write of a unit."""

    unit: Unit
    partition: int
    token: int
    """Of the lease on the partition."""
    version: int
    """The version that is there, as far as the writer knows; 0 for none. `Replace` and `Drop`
    ask for none."""
    change: Append | Replace | Drop
    seen: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of it that matter."""
        change = self.change
        if isinstance(change, Append):
            return sum(map(len, change.journal))
        return len(change.snapshot or b"") if isinstance(change, Replace) else 0


class Written(Enum):
    """What became of a write."""

    DONE = "done"
    """There is the next version now, ``version + 1``."""
    FENCED = "fenced"
    """Refused: the partition belongs to somebody else."""
    MISSING = "missing"
    """Refused: another version is there, or none. `Replace` what is there."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker learns when it is heard of."""

    workers: int
    """How many there are, this one included."""
    held: frozenset[int]
    """Of its partitions, those that still are."""
    free: frozenset[int]
    """Partitions that are nobody's. A state that came back empty does not know whose they are until
    all had time to be heard of, the length of a lease; until then none is."""


class State(Protocol):
    """Where the shared state is. Every call is one round trip.

    Raises (every call): `StateUnavailable`; some or all of it may have been done, and it is safe to
    call again. Cancelled, likewise.
    """

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Be able to reach it; it may be away."""

    async def beat(self, worker: str, held: Mapping[int, int], *, partitions: int) -> Beat:
        """Say that a worker lives, and renew its leases, partition to token.

        A lease that ran out is renewed if nobody has taken the partition since.
        """

    async def take(
        self, worker: str, partitions: Sequence[int], *, above: int
    ) -> Mapping[int, int]:
        """Lease those that are free, or this worker's own; their tokens, higher than ``above``."""

    async def give_back(self, worker: str, held: Mapping[int, int], *, leaving: bool) -> None:
        """End leases; ``leaving`` ends the worker too. Those of others stay as they are."""

    async def load(self, units: Sequence[Unit]) -> Sequence[Kept | None]:
        """What is kept of each, in their order; it will be kept for as long again."""

    async def save(self, writes: Sequence[Write]) -> Sequence[Written]:
        """Write all at once; what became of each, in their order."""
