"""The ledger out of a store: one set of queries for both dialects, and what they add up to.

Everything is summed up by the database; what comes back is a row per epoch, run or reason. The
parameters are ``$1`` since, ``$2`` until (unix ms), ``$3`` tenant and ``$4`` agent (NULL for all).
"""

# ruff: noqa: S608 - all that is put into these queries are our own words
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from services.store.interface import EpochFacts, LedgerFacts
from services.store.rows import Row
from services.store.tables import EVENT_TABLES, Dialect
from transport.messages import Counters, Gap

RUNS_MAX = 1000
"""Runs and gaps told of one epoch at most."""
EVICTED_MAX = 10_000
"""Evictions told of one epoch at most."""
REASONS_MAX = 20
"""Reasons of rejected events told of one epoch at most, and of refused messages of one agent."""
OTHER_REASONS = "other reasons"
HEARD_BEFORE_MS = 7 * 86_400_000
_OF_AGENTS = ("invalid", "heard")
"""Queries whose rows are of an agent, not of one of its epochs."""
Key: TypeAlias = tuple[str, str, str]
"""Tenant, agent, epoch."""

_KEY = "tenant_id, agent_id, epoch"
_RECEIVED = (
    "{t}received_at_unix_ms >= CAST($1 AS bigint) AND {t}received_at_unix_ms < CAST($2 AS bigint)"
)
_WHOSE = (
    "(CAST($3 AS text) IS NULL OR {t}tenant_id = CAST($3 AS text))"
    " AND (CAST($4 AS text) IS NULL OR {t}agent_id = CAST($4 AS text))"
)


def _chosen(table: str = "") -> str:
    prefix = f"{table}." if table else ""
    return f"{_RECEIVED} AND {_WHOSE}".format(t=prefix)


# Sums like last_seq + 1 are left to Python: the largest number would overflow here.
_SPANS = f"""spans AS (
  SELECT {_KEY}, count(*) AS batches,
    min(received_at_unix_ms) AS first_received, max(received_at_unix_ms) AS last_received,
    sum(accepted) AS accepted, sum(stored) AS stored,
    min(first_seq) FILTER (WHERE NOT is_overlap) AS low,
    max(last_seq) FILTER (WHERE NOT is_overlap) AS high,
    min(number) FILTER (WHERE NOT is_overlap) AS low_number,
    max(number) FILTER (WHERE NOT is_overlap) AS high_number
  FROM batches WHERE {_chosen()} GROUP BY {_KEY})"""
_SAME = "b.tenant_id = s.tenant_id AND b.agent_id = s.agent_id AND b.epoch = s.epoch"
_IN_SPAN = f"{_SAME} AND NOT b.is_overlap AND b.first_seq >= s.low AND b.first_seq - 1 <= s.high"

_FACTS = f"""WITH {_SPANS}
SELECT {_KEY}, batches, first_received, last_received, accepted, stored, low, high,
  (SELECT b.counters FROM batches b WHERE {_SAME} AND NOT b.is_overlap
     AND b.number = s.high_number LIMIT 1),
  (SELECT b.counters FROM batches b WHERE {_SAME} AND NOT b.is_overlap
     AND b.number < s.low_number ORDER BY b.number DESC LIMIT 1)
FROM spans s"""

# Materialized, or SQLite goes through all batches in the order of the grouping. The commonest
# reasons are told and the rest summed up: who sends the events chooses what is wrong with them.
_REJECTED = f"""WITH b AS MATERIALIZED (
  SELECT {_KEY}, rejected FROM batches WHERE {_chosen()} AND rejected <> '{{{{}}}}'),
  sums AS (
    SELECT {_KEY}, r.key AS reason, sum(CAST(r.value AS bigint)) AS events
    FROM b, {{each}} GROUP BY {_KEY}, r.key),
  ranked AS (
    SELECT {_KEY}, events, CASE WHEN row_number() OVER (PARTITION BY {_KEY}
      ORDER BY CASE WHEN reason = 'overlap' THEN 0 ELSE 1 END, events DESC, reason
      ) <= {REASONS_MAX} THEN reason ELSE '{OTHER_REASONS}' END AS reason
    FROM sums)
SELECT {_KEY}, reason, sum(events) FROM ranked GROUP BY {_KEY}, reason ORDER BY {_KEY}, reason"""

# All batches of a span are looked at, also those received outside the time range: what came at
# another time is not missing.
_MISSING = f"""WITH {_SPANS},
  steps AS (
    SELECT b.tenant_id, b.agent_id, b.epoch, b.first_seq, max(b.last_seq) OVER (
      PARTITION BY b.tenant_id, b.agent_id, b.epoch ORDER BY b.first_seq, b.last_seq
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
    FROM spans s JOIN batches b ON {_IN_SPAN}),
  runs AS (
    SELECT {_KEY}, reached, first_seq,
      sum(first_seq - reached - 1) OVER (PARTITION BY {_KEY}) AS missing,
      row_number() OVER (PARTITION BY {_KEY} ORDER BY first_seq) AS rank
    FROM steps WHERE first_seq - 1 > reached)
SELECT {_KEY}, reached, first_seq, missing FROM runs WHERE rank <= {RUNS_MAX}
ORDER BY {_KEY}, rank"""

_OUTSIDE = f"""WITH {_SPANS}
SELECT b.tenant_id, b.agent_id, b.epoch, sum(
  CASE WHEN b.last_seq < s.high THEN b.last_seq ELSE s.high END - b.first_seq + 1)
FROM spans s JOIN batches b ON {_IN_SPAN}
WHERE b.last_seq >= b.first_seq AND b.first_seq <= s.high
  AND NOT ({_RECEIVED.format(t="b.")})
GROUP BY b.tenant_id, b.agent_id, b.epoch"""

_ALERTS = f"""SELECT {_KEY}, count(*), min(received_at_unix_ms), max(received_at_unix_ms)
FROM alerts WHERE {_chosen()} AND source = 'agent' GROUP BY {_KEY}"""

_GAPS = f"""SELECT {_KEY}, from_unix_ms, to_unix_ms, reason, events FROM (
  SELECT g.*, row_number() OVER (PARTITION BY {_KEY} ORDER BY from_unix_ms, to_unix_ms) AS rank
  FROM agent_gaps g WHERE {_chosen()}) ranked
WHERE rank <= {RUNS_MAX} ORDER BY {_KEY}, rank"""

_EVICTED = f"""WITH {_SPANS}
SELECT {_KEY}, first_seq, last_seq, reason, received_at_unix_ms FROM (
  SELECT e.*, row_number() OVER (
    PARTITION BY e.tenant_id, e.agent_id, e.epoch ORDER BY e.first_seq, e.last_seq) AS rank
  FROM evictions e LEFT JOIN spans s
    ON e.tenant_id = s.tenant_id AND e.agent_id = s.agent_id AND e.epoch = s.epoch
  WHERE ({_chosen("e")}) OR (e.last_seq >= s.low AND e.first_seq <= s.high)) ranked
WHERE rank <= {EVICTED_MAX} ORDER BY {_KEY}, rank"""

_INVALID = f"""WITH sums AS (
    SELECT tenant_id, agent_id, reason, count(*) AS messages
    FROM invalid_messages WHERE {_chosen()} GROUP BY tenant_id, agent_id, reason),
  ranked AS (
    SELECT tenant_id, agent_id, messages, CASE WHEN row_number() OVER (
      PARTITION BY tenant_id, agent_id ORDER BY messages DESC, reason
      ) <= {REASONS_MAX} THEN reason ELSE '{OTHER_REASONS}' END AS reason
    FROM sums)
SELECT tenant_id, agent_id, reason, sum(messages) FROM ranked
GROUP BY tenant_id, agent_id, reason ORDER BY tenant_id, agent_id, reason"""

# An agent that stopped before the range shall not be passed over; one of last month may be.
_HEARD = f"""SELECT tenant_id, agent_id, max(received_at_unix_ms) FROM batches
WHERE received_at_unix_ms >= CAST($1 AS bigint) - {HEARD_BEFORE_MS}
  AND received_at_unix_ms < CAST($2 AS bigint) AND {_WHOSE.format(t="")}
GROUP BY tenant_id, agent_id"""

_EACH: dict[Dialect, str] = {
    "sqlite": "json_each(b.rejected) AS r",
    "postgres": "jsonb_each_text(b.rejected) AS r(key, value)",
}


def queries(dialect: Dialect) -> dict[str, str]:
    """What is asked of a store, by name."""
    return {
        "facts": _FACTS,
        "rejected": _REJECTED.format(each=_EACH[dialect]),
        "missing": _MISSING,
        "outside": _OUTSIDE,
        "alerts": _ALERTS,
        "gaps": _GAPS,
        "evicted": _EVICTED,
        "invalid": _INVALID,
        "heard": _HEARD,
    }


def row_queries(*, bounds: str = "") -> list[str]:
    """Event rows by tenant and agent, a query for each table.

    Args:
        bounds: a further condition, by which a store finds the rows fast.
    """
    return [
        f"SELECT tenant_id, agent_id, count(*) FROM {table.name}"
        f" WHERE {_chosen()}{bounds} GROUP BY tenant_id, agent_id"
        for table in EVENT_TABLES
    ]


def facts_of(answers: Mapping[str, Sequence[Row]], rows: Iterable[Row]) -> LedgerFacts:
    """What the answers to `queries`, and to `row_queries`, say together."""
    keyed = {name: _by_epoch(found) for name, found in answers.items() if name not in _OF_AGENTS}
    keys = keyed["facts"].keys() | keyed["alerts"].keys() | keyed["evicted"].keys()
    epochs = [
        _epoch(key, {name: found.get(key, []) for name, found in keyed.items()}) for key in keys
    ]
    epochs.sort(key=lambda e: (e.tenant_id, e.agent_id, e.first_received_unix_ms, e.epoch))
    invalid: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for tenant, agent, reason, count in answers["invalid"]:
        invalid[tenant, agent][reason] = int(count)
    counted: defaultdict[tuple[str, str], int] = defaultdict(int)
    for tenant, agent, count in rows:
        counted[tenant, agent] += count
    heard = {(tenant, agent): int(latest) for tenant, agent, latest in answers["heard"]}
    return LedgerFacts(epochs, dict(invalid), dict(counted), heard)


def _by_epoch(found: Sequence[Row]) -> dict[Key, list[Row]]:
    by_epoch: defaultdict[Key, list[Row]] = defaultdict(list)
    for tenant, agent, epoch, *rest in found:
        by_epoch[tenant, agent, epoch].append(tuple(rest))
    return dict(by_epoch)


def _epoch(key: Key, answers: Mapping[str, list[Row]]) -> EpochFacts:
    batches, accepted, stored = 0, 0, 0
    low: int | None = None
    high: int | None = None
    last: str | None = None
    before: str | None = None
    times: list[int] = []
    for row in answers["facts"]:
        batches, first, latest, accepted, stored, low, high, last, before = row
        times += [first, latest]
    for _, first, latest in answers["alerts"]:
        times += [first, latest]
    if not times:  # all that is known of it is what another epoch says was evicted
        times = [received for *_, received in answers["evicted"]]
    missing = answers["missing"]
    return EpochFacts(
        *key,
        first_received_unix_ms=min(times),
        last_received_unix_ms=max(times),
        batches=batches,
        first_seq=0 if low is None else low,
        next_seq=0 if high is None else high + 1,
        accepted=int(accepted),
        stored=int(stored),
        rejected={reason: int(count) for reason, count in answers["rejected"]},
        missing=[(reached + 1, first - 1) for reached, first, _ in missing],
        missing_events=int(missing[0][2]) if missing else 0,
        outside_events=sum(int(count) for (count,) in answers["outside"]),
        counters=_counters(last) or Counters(),
        counters_before=_counters(before),
        alerts_stored=sum(count for count, *_ in answers["alerts"]),
        gaps=[Gap(*row) for row in answers["gaps"]],
        evicted=[(first, latest, why) for first, latest, why, _ in answers["evicted"]],
    )


def _counters(text: Any) -> Counters | None:
    return None if text is None else msgspec.json.decode(text, type=Counters)
