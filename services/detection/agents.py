"""The engines a worker has in memory: restored, fed, and what of it to write. No I/O, no async.

The last thing done to an engine before it is written is kept here, not there: after a write was
refused because the state lost what it had, the whole engine is written from here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from services.detection.engine import Detection, MakeDetection
from services.detection.seen import Finding, Seen
from services.detection.state import (
    JOURNAL_MAX_BATCHES,
    JOURNAL_MAX_BYTES,
    SNAPSHOT_MAX_BYTES,
    Append,
    Drop,
    Kept,
    Replace,
    Unit,
    Write,
    Written,
)
from transport.messages import Alert, CanonicalBatch, Host
from transport.subjects import Address

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

BOOTS_MAX = 2
"""Boots of one agent that are followed: late batches of the one before come among the new ones."""
_ROUND_TRIP_BYTES = 32 << 20
"""More than a group of messages has, unless the state lost everything."""
_decode = msgspec.json.Decoder(CanonicalBatch).decode


@dataclass(slots=True)
class AgentCounts:
    """What became of engines since the start."""

    made: int = 0
    """Engines begun anew."""
    restored: int = 0
    """Engines made again of what was kept."""
    snapshots: int = 0
    """Whole engines written."""
    snapshots_refused: int = 0
    """Of these, those too large to be kept."""
    snapshots_not_understood: int = 0
    """Snapshots of which no engine could be made: another version's, mostly."""
    journal_errors: int = 0
    """Journalled batches the engine did not take again."""
    missing: int = 0
    """Writes refused because the state had lost what it should have."""
    fenced: int = 0
    """Writes refused because the partition was somebody else's."""
    evicted: int = 0
    """Engines that made room for others."""
    in_memory: int = 0
    """Engines now."""


@dataclass(slots=True)
class _Live:
    """An engine in memory."""

    detection: Detection
    seen: Seen
    partition: int
    version: int = 0
    batches: int = 0
    size: int = 0
    """Of the journal that is kept, batches and bytes."""
    fresh: list[bytes] = field(default_factory=list)
    """Processed and not written."""
    broken: bool = False


class Agents:
    """Engines by unit; the least recently used goes first.

    Args:
        make: makes an engine.
        max_agents: how many are in memory at most, between two groups of messages.
        counts: what was done.
    """

    def __init__(self, make: MakeDetection, *, max_agents: int, counts: AgentCounts) -> None:
        self.counts = counts
        self._make = make
        self._max = max_agents
        self._live: OrderedDict[Unit, _Live] = OrderedDict()
        self._dirty: dict[Unit, None] = {}
        """Units with something to write, in order."""
        self._boots: OrderedDict[Address, list[str]] = OrderedDict()
        self._old: list[tuple[Unit, int]] = []
        """Units to drop, with their partitions."""

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, unit: Unit) -> bool:
        return unit in self._live

    def is_another_boot(self, unit: Unit) -> bool:
        """Whether its agent is known, and this boot of it is not."""
        known = self._boots.get(Address(unit.tenant_id, unit.agent_id))
        return known is not None and unit.boot_id not in known

    def restore(self, unit: Unit, host: Host, kept: Kept | None, *, partition: int) -> None:
        """Have an engine: a new one, or the one that is kept."""
        address = Address(unit.tenant_id, unit.agent_id)
        if kept is None:
            self.counts.made += 1
            live = _Live(self._make(address, host, None), Seen(), partition)
        else:
            self.counts.restored += 1
            detection = self._awake(address, host, kept)
            size = sum(map(len, kept.journal))
            seen = _seen(kept, address)
            live = _Live(detection, seen, partition, kept.version, len(kept.journal), size)
        self._live[unit] = live
        self._note_boot(address, unit, partition)

    def find(self, unit: Unit, batch: CanonicalBatch) -> Finding:
        """Whether a batch is new to its unit, which is in memory."""
        return self._live[unit].seen.find(batch.batch_id)

    def process(self, unit: Unit, batch: CanonicalBatch, payload: bytes) -> list[Alert]:
        """What a batch shows to its unit, which is in memory.

        Raises:
            Exception: the engine's. The unit is of no use then, but for `writes`; `forget` it.
        """
        live = self._live[unit]
        self._live.move_to_end(unit)
        try:
            alerts = live.detection.process(batch)
        except Exception:
            live.broken = True
            raise
        live.seen.add(batch.batch_id)
        live.fresh.append(payload)
        self._dirty[unit] = None
        return alerts

    def poisoned(self, unit: Unit) -> Sequence[tuple[int, str]]:
        """Events of the batch just processed that made the engine fail, each with why."""
        return self._live[unit].detection.poisoned

    def writes(self, tokens: Mapping[int, int]) -> list[Write]:
        """What to write, under the tokens of the partitions."""
        made = [
            Write(unit, partition, tokens.get(partition, 0), 0, Drop())
            for unit, partition in self._old
        ]
        self._old.clear()
        for unit in self._dirty:
            live = self._live.get(unit)
            if live is not None and live.fresh:
                made.append(self._write(unit, live, tokens.get(live.partition, 0)))
        return made

    def written(self, writes: Sequence[Write], results: Iterable[Written]) -> list[Write]:
        """Take note of what became of writes; what to write in their stead."""
        again = []
        for write, result in zip(writes, results, strict=True):
            live = self._live.get(write.unit)
            if live is None or isinstance(write.change, Drop):
                continue
            if result is Written.FENCED:
                self.counts.fenced += 1
                self.forget(write.unit)
            elif result is Written.MISSING:
                self.counts.missing += 1
                again.append(self._whole(write.unit, live, write.token))
            else:
                _note_written(live, write)
                self._dirty.pop(write.unit, None)
        return again

    def forget(self, unit: Unit) -> None:
        """Have no engine of a unit."""
        self._live.pop(unit, None)
        self._dirty.pop(unit, None)

    def forget_partition(self, partition: int) -> None:
        """Have no engine of a partition: it is somebody else's."""
        for unit in [unit for unit, live in self._live.items() if live.partition == partition]:
            self.forget(unit)

    def shrink(self) -> None:
        """Make room; everything is written."""
        while len(self._live) > self._max:
            self._live.popitem(last=False)
            self.counts.evicted += 1
        while len(self._boots) > 2 * self._max:
            self._boots.popitem(last=False)
        self.counts.in_memory = len(self._live)

    def _awake(self, address: Address, host: Host, kept: Kept) -> Detection:
        """The engine of a snapshot and the journal after it; its alerts are out already."""
        try:
            detection = self._make(address, host, kept.snapshot)
        except Exception as error:  # noqa: BLE001 - whatever it is, there must be an engine
            self.counts.snapshots_not_understood += 1
            log.warning("snapshot is not understood; engine begins anew", agent=address.agent_id)
            log.debug("snapshot", error=repr(error))
            detection = self._make(address, host, None)
        for payload in kept.journal:
            try:
                detection.process(_decode(payload))
            except Exception as error:  # noqa: BLE001 - it was taken once: another version's
                self.counts.journal_errors += 1
                log.warning("journal is not taken", agent=address.agent_id, error=repr(error))
        return detection

    def _note_boot(self, address: Address, unit: Unit, partition: int) -> None:
        """Follow two boots of an agent at most."""
        boots = self._boots.setdefault(address, [])
        self._boots.move_to_end(address)
        if unit.boot_id in boots:
            return
        boots.append(unit.boot_id)
        if len(boots) > BOOTS_MAX:
            old = Unit(*address, boots.pop(0))
            self._old.append((old, partition))
            self.forget(old)

    def _write(self, unit: Unit, live: _Live, token: int) -> Write:
        batches = live.batches + len(live.fresh)
        size = live.size + sum(map(len, live.fresh))
        # A broken engine has half a batch in it, which no snapshot should have.
        if not live.broken and (batches > JOURNAL_MAX_BATCHES or size > JOURNAL_MAX_BYTES):
            return self._whole(unit, live, token)
        change = Append(tuple(live.fresh))
        return Write(unit, live.partition, token, live.version, change, live.seen.encode())

    def _whole(self, unit: Unit, live: _Live, token: int) -> Write:
        self.counts.snapshots += 1
        snapshot: bytes | None = live.detection.snapshot()
        if len(snapshot or b"") > SNAPSHOT_MAX_BYTES:
            self.counts.snapshots_refused += 1
            log.error("snapshot is too large to be kept", agent=unit.agent_id)
            snapshot = None
        change = Replace(snapshot)
        return Write(unit, live.partition, token, live.version, change, live.seen.encode())


def first_part(writes: Sequence[Write]) -> tuple[list[Write], list[Write]]:
    """As many as are written in one round trip, at least one, and the others."""
    size = 0
    for at, write in enumerate(writes):
        size += write.size
        if at and size > _ROUND_TRIP_BYTES:
            return list(writes[:at]), list(writes[at:])
    return list(writes), []


def _seen(kept: Kept, address: Address) -> Seen:
    try:
        return Seen.decode(kept.seen)
    except msgspec.MsgspecError as error:
        log.warning("batches seen are not understood", agent=address.agent_id, error=str(error))
        return Seen()


def _note_written(live: _Live, write: Write) -> None:
    live.version = write.version + 1
    if isinstance(write.change, Append):
        live.batches += len(write.change.journal)
        live.size += sum(map(len, write.change.journal))
    else:
        live.batches = live.size = 0
    live.fresh = []
