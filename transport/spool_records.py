"""What goes into the spool and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from transport.messages import Counters
from transport.spool_evictions import Kind, Loss


class NewItem(NamedTuple):
    """A message to be spooled."""

    kind: Kind
    message_id: str
    """What the broker knows duplicates by."""
    subject: str
    payload: bytes
    epoch: str
    first_seq: int = 0
    events: int = 0
    """``payload`` has the events ``first_seq`` to ``first_seq + events - 1``; an alert has none."""


class Item(NamedTuple):
    """A message in the spool."""

    id: int
    """Grows with every message of a kind, and is never given again while the spool is open."""
    kind: Kind
    message_id: str
    subject: str
    payload: bytes
    epoch: str
    first_seq: int
    events: int
    created_unix_ms: int


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """Where an agent stood when a batch was closed; the next agent goes on from there."""

    load_id: str
    """The life of the probes that `positions` belong to."""
    positions: dict[str, int]
    """How far each ring has been read: everything before is spooled, unwanted or counted."""
    counters: Counters
    epoch: str
    next_batch: int
    """Number of the next batch of this epoch."""
    at_unix_ms: int = 0
    """When it stood there."""


class Opened(msgspec.Struct, frozen=True):
    """How a spool was found."""

    how: Literal["fresh", "resumed", "set_aside"]
    """``fresh``: nobody has appended before. ``set_aside``: what was there could not be used."""
    reason: str = ""
    """Why it was set aside."""
    path: Path | None = None
    """Where what was set aside is now."""


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How full the spool is, and what it lost."""

    batches: int
    """Batches of telemetry waiting."""
    alerts: int
    """Alerts waiting."""
    bytes: int
    """Payloads waiting, each with an overhead of 512 bytes: what the bound is held against."""
    oldest_age_secs: float
    """Age of what has waited longest; 0 when nothing waits."""
    evicted: list[Loss]
    """By kind, reason and epoch, since the file was made."""
    untold_events: int
    """Evicted events whose run was forgotten, see `EvictionLog`; they are in `evicted`."""
    failed_appends: int
    """Calls of `append` that raised, since it was opened."""
