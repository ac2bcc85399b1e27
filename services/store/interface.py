"""What every store does; `tests/services/store/test_conformance.py` holds each of them to it.

Whatever is added is added once: a message that was stored before, under the same id, changes
nothing. What one call adds becomes visible at once or not at all.

StoreError
├── StoreUnavailable: it cannot be reached now, is locked or full; try again later
└── StoreRefused: it will never take this; the text says why
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from services.store.incidents import IncidentPage, Timeline
from transport.messages import (
    Alert,
    CanonicalBatch,
    CanonicalSingle,
    Counters,
    Event,
    Gap,
    Host,
    Invalid,
)

Telemetry: TypeAlias = CanonicalBatch | CanonicalSingle


class StoreError(Exception):
    """Something is wrong with the store; the text names it."""


class StoreUnavailable(StoreError):  # noqa: N818 - it says what is so
    """It cannot be reached now. All of the call was stored or nothing; make it again later."""


class StoreRefused(StoreError):  # noqa: N818 - it says what happened
    """It refuses what it was given; the same call will fail again."""


@dataclass(frozen=True, slots=True)
class Added:
    """What one call stored."""

    messages: int = 0
    """Messages that were not there before."""
    rows: int = 0
    """Event rows of these."""
    duplicates: int = 0
    """Messages that were there already."""


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """What the store knows of one life of an agent, out of the batches received in a time range.

    ``next_seq - first_seq = stored + rejected (without overlap) + missing_events +
    outside_events``. Events of version 1 have no epoch: they are gathered under ``epoch = ""``. An
    epoch of which only alerts or evictions are known has no batches and no counters.
    """

    tenant_id: str
    agent_id: str
    epoch: str
    first_received_unix_ms: int
    last_received_unix_ms: int
    batches: int
    """Batches received, those without events included."""
    first_seq: int
    next_seq: int
    """One more than the last sequence number."""
    accepted: int
    """Events ingest let through: ``stored`` and those rejected as ``overlap``."""
    stored: int
    """Event rows written."""
    rejected: Mapping[str, int]
    """Events ingest took out of batches, by reason; as ``overlap`` also those the store refused,
    because another batch had claimed their sequence numbers."""
    missing: Sequence[tuple[int, int]]
    """Runs of sequence numbers, first and last, between ``first_seq`` and ``next_seq`` of which no
    batch came at any time; in order, at most 1,000."""
    missing_events: int
    """How many there are in all of these runs, also those beyond the 1,000."""
    outside_events: int
    """Sequence numbers between ``first_seq`` and ``next_seq`` whose batch was received before or
    after the range."""
    counters: Counters
    """The agent's counters with the last batch of the range; gaps and evictions are below."""
    counters_before: Counters | None
    """Those with the last batch, by number, before the first of the range; None if there is none
    in this epoch."""
    alerts_stored: int
    gaps: Sequence[Gap] = ()
    """What the agent reported, at most 1,000."""
    evicted: Sequence[tuple[int, int, str]] = ()
    """Runs of this epoch's sequence numbers that left the spool unsent: first, last, reason; as
    any epoch of the agent reported them, each once, at most 10,000. Those that were first reported
    in the range, and those that touch ``first_seq`` to ``next_seq``."""


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """All the store can say about a time range."""

    epochs: Sequence[EpochFacts]
    """By tenant, agent and first reception."""
    invalid: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    """Refused messages by (tenant, agent), then by reason."""
    rows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Event rows found in the tables by (tenant, agent); only if counting them was asked for."""
    heard: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """When the last batch before the end of the range was received, in unix ms, by (tenant, agent);
    also where that was up to seven days before the range."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive events of one life of an agent."""

    tenant_id: str
    agent_id: str
    epoch: str
    host: Host
    """What the agent said of its machine; an event happened at ``boot_unix_ns + time_ns``."""
    events: Sequence[Event]
    seqs: Sequence[int]
    """The sequence number of each; what is missing was rejected, lost, or not received then."""


class Store(Protocol):
    """A place for telemetry and alerts. Every method may raise `StoreError`.

    Cancelled, a call has stored all of what it was given or nothing; which of both is unknown.
    """

    async def open(self) -> None:
        """Connect, and bring the schema up to date under a lock; safe from several processes."""

    async def schema_version(self) -> int:
        """The version of the schema that is there, 0 for an empty place; changes nothing."""

    async def close(self) -> None:
        """Let go; safe to call twice."""

    async def add_telemetry(self, messages: Sequence[Telemetry]) -> Added:
        """Store canonical messages: event rows, and for each message its line of the ledger."""

    async def add_alerts(self, alerts: Sequence[Alert]) -> Added:
        """Store alerts, each with the status ``open``, and bring their incidents up to date.

        An alert that was stored before is a duplicate; of it, only the greatest count, score and
        time of observation are kept, and that an agent raised it, if one did.
        """

    async def add_invalid(self, refused: Sequence[Invalid]) -> Added:
        """Store what was refused and why."""

    async def retain(self, now_unix_ms: int) -> None:
        """Remove what is older than the retention, prepare partitions for what is to come.

        Whole days (UTC) are removed, so things stay up to a day longer.
        """

    async def ledger(
        self,
        *,
        since_unix_ms: int,
        until_unix_ms: int,
        tenant_id: str | None = None,
        agent_id: str | None = None,
        count_rows: bool = False,
    ) -> LedgerFacts:
        """What was received from ``since`` (included) to ``until`` (excluded)."""

    async def incidents(
        self,
        *,
        since_unix_ms: int = 0,
        limit: int = 50,
        cursor: str = "",
        tenant_id: str | None = None,
    ) -> IncidentPage:
        """Incidents of which an alert was observed since then, the one seen last first.

        Args:
            since_unix_ms: by the agents' clocks.
            limit: how many at most.
            cursor: the page before says where this one begins.
            tenant_id: of this tenant alone.

        Raises:
            ValueError: a cursor that no page gave.
        """

    async def incident(self, incident_id: str) -> Timeline | None:
        """An incident with its alerts; None if there is none of this id."""

    def history(
        self,
        *,
        since_unix_ms: int,
        until_unix_ms: int,
        tenant_id: str | None = None,
        agent_id: str | None = None,
    ) -> AsyncIterator[Chunk]:
        """Events received from ``since`` (included) to ``until`` (excluded), as published.

        Agent by agent, each life of an agent after the one before, in the order of their sequence
        numbers. Between two chunks nothing is held, so it may be left at any point; what is stored
        or removed meanwhile may be in it or not.
        """
