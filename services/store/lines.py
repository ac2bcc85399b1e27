"""From messages to rows: the ledger's lines, what agents report of losses, refusals. Pure.

A message's line decides whether its events are stored: only whoever writes the line, writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from services.store.interface import Telemetry
from services.store.rows import Row, count_rows
from transport.messages import CanonicalBatch, Invalid

OVERLAP = "overlap"
"""Reason of events whose sequence numbers another batch had claimed before."""


class Line(NamedTuple):
    """A row of ``batches``; fields in the order of its columns.

    Version 1 has no epoch and no sequence: these are ``""``, 0 and -1.
    """

    tenant_id: str
    agent_id: str
    batch_id: str
    epoch: str
    number: int
    first_seq: int
    last_seq: int
    hostname: str
    boot_id: str
    observed_at_unix_ms: int
    received_at_unix_ms: int
    stored_at_unix_ms: int
    accepted: int
    stored: int
    rejected: str
    is_overlap: bool
    counters: str | None
    boot_unix_ns: int | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes the message the same message."""
        return (self.tenant_id, self.agent_id, self.batch_id)

    @property
    def order(self) -> tuple[str, str, str, int, str]:
        """In which order all writers take their locks, and overlapping batches come first."""
        return (self.tenant_id, self.agent_id, self.epoch, self.number, self.batch_id)

    def as_overlap(self) -> Line:
        """The line of a batch whose sequence numbers are another's: none of its events is stored.

        What ingest rejected of it is not told: those numbers are accounted for by the other batch.
        """
        rejected = _json({OVERLAP: self.accepted} if self.accepted else {})
        return self._replace(stored=0, is_overlap=True, rejected=rejected)


def lines_of(
    messages: Iterable[Telemetry], *, stored_at_unix_ms: int
) -> list[tuple[Line, Telemetry]]:
    """Each message once, with its line, in the order in which lines are written."""
    found: dict[tuple[str, str, str], tuple[Line, Telemetry]] = {}
    for message in messages:
        line = _line(message, stored_at_unix_ms)
        found.setdefault(line.key, (line, message))
    return sorted(found.values(), key=lambda pair: pair[0].order)


def _line(message: Telemetry, stored_at_unix_ms: int) -> Line:
    rows = count_rows(message)
    batch = message if isinstance(message, CanonicalBatch) else None
    message_id = message.batch_id if isinstance(message, CanonicalBatch) else message.event_id
    rejected = Counter(each.reason for each in batch.rejected) if batch else {}
    # Gaps and evictions have tables of their own; here they would only be told again.
    counters = batch and msgspec.structs.replace(batch.counters, evicted=[], gaps=[])
    return Line(
        tenant_id=message.tenant_id,
        agent_id=message.agent_id,
        batch_id=message_id,
        epoch=batch.epoch if batch else "",
        number=int(batch.batch_id.rpartition("-")[2]) if batch else 0,
        first_seq=batch.first_seq if batch else 0,
        last_seq=batch.last_seq if batch else -1,
        hostname=message.host.hostname,
        boot_id=message.host.boot_id,
        observed_at_unix_ms=message.observed_at_unix_ms,
        received_at_unix_ms=message.received_at_unix_ms,
        stored_at_unix_ms=stored_at_unix_ms,
        accepted=rows,
        stored=rows,
        rejected=_json(rejected),
        is_overlap=False,
        counters=_json(counters) if counters else None,
        boot_unix_ns=batch.host.boot_unix_ns if batch else None,
    )


def gap_rows(messages: Iterable[Telemetry]) -> list[Row]:
    """Rows of ``agent_gaps``."""
    return [
        (
            *(message.tenant_id, message.agent_id, message.epoch, message.batch_id),
            message.received_at_unix_ms,
            *(gap.from_unix_ms, gap.to_unix_ms, gap.reason, gap.events),
        )
        for message in messages
        if isinstance(message, CanonicalBatch)
        for gap in message.counters.gaps
    ]


def eviction_rows(messages: Iterable[Telemetry]) -> list[Row]:
    """Rows of ``evictions``, sorted as `Line.order` is, and for the same reason."""
    return sorted(
        (
            *(message.tenant_id, message.agent_id, run.epoch, run.first_seq, run.last_seq),
            *(run.reason, message.received_at_unix_ms),
        )
        for message in messages
        if isinstance(message, CanonicalBatch)
        for run in message.counters.evicted
    )


def invalid_rows(refused: Iterable[Invalid]) -> list[Row]:
    """Rows of ``invalid_messages``, each message once, sorted; fit to be stored whatever came."""
    found: dict[tuple[str, str, str], Row] = {}
    for each in refused:
        key = (_fit(each.tenant_id), _fit(each.agent_id), _fit(each.invalid_id))
        found.setdefault(
            key,
            (
                *(key[2], key[0], key[1], _fit(each.reason), _fit(each.detail)),
                *(each.size_bytes, each.received_at_unix_ms, _fit(each.payload)),
            ),
        )
    return [found[key] for key in sorted(found)]


def _fit(text: str) -> str:
    """The text with what PostgreSQL cannot store written out: NUL and lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
