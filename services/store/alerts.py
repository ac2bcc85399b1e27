"""Alerts in a store: their rows, what a repeat changes, and the incidents that come of them.

The statements are the same for both dialects, but for how a list of values is passed.
"""

# ruff: noqa: S608 - all that is put into these statements are our own words
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from actors.detection.events import LEVELS, LineageProcess
from services.store.incidents import (
    TIMELINE_MAX,
    Incident,
    IncidentPage,
    StoredAlert,
    Timeline,
    incident_id,
    lane_of,
)
from services.store.rows import Row, Texts
from services.store.steps import Steps
from services.store.tables import ALERTS, INCIDENTS, Dialect
from transport.messages import SEVERITIES, Alert, Evidence

_AT = {name: place for place, name in enumerate(ALERTS.names)}
_ATTRIBUTES = {"rule_references": "references", "last_observed_at_unix_ms": "observed_at_unix_ms"}
"""Columns that are not called what the alert calls them, or begin as another."""
_GREATEST = ("count", "last_observed_at_unix_ms", "score")
"""What only grows as an alert comes again."""
_LOCK_CLASS = 1_091_412
"""Advisory locks of incidents; any number that nobody else uses."""

_GROWN = " OR ".join(f"{name} < ${place}" for place, name in enumerate(_GREATEST, 1))
_GROW = (
    f"UPDATE alerts SET count = {{greatest}}(count, $1),"
    f" last_observed_at_unix_ms = {{greatest}}(last_observed_at_unix_ms, $2),"
    f" score = {{greatest}}(score, $3),"
    f" source = CASE WHEN $4 = 'agent' THEN 'agent' ELSE source END,"
    f" targets = CASE WHEN count < $1 THEN $8 ELSE targets END"
    f" WHERE alert_id = $5 AND tenant_id = $6 AND agent_id = $7"
    f" AND ({_GROWN} OR source > $4)"
)
_LOCK = (
    f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, key) FROM unnest(CAST($1 AS integer[])) AS key"
)


def _rank(column: str, words: Sequence[str]) -> str:
    cases = " ".join(f"WHEN '{word}' THEN {rank}" for rank, word in enumerate(words))
    return f"max(CASE {column} {cases} END)"


_SUMS = (
    "SELECT incident_id, min(tenant_id), min(agent_id), min(hostname), min(boot_id), min(lineage),"
    " min(first_seen), max(last_seen), max(received), sum(alerts), sum(hits), max(score),"
    " max(level), max(severity) FROM ("
    "SELECT incident_id, min(tenant_id) AS tenant_id, min(agent_id) AS agent_id,"
    " min(hostname) AS hostname, min(boot_id) AS boot_id, min(lineage) AS lineage,"
    " min(observed_at_unix_ms) AS first_seen, max(last_observed_at_unix_ms) AS last_seen,"
    " max(received_at_unix_ms) AS received, count(*) AS alerts, max(count) AS hits,"
    f" max(score) AS score, {_rank('level', LEVELS)} AS level,"
    f" {_rank('severity', SEVERITIES)} AS severity, min(lane) AS lane"
    " FROM alerts WHERE incident_id {among} GROUP BY incident_id, rule"
    ") AS rules GROUP BY incident_id HAVING min(lane) = 'page'"
)
"""``page`` comes before ``quiet``: the least is ``page`` if any is. An alert's count is that of its
rule in the lineage, so the greatest of a rule's alerts has counted the others."""
_MARKS = ", ".join(f"${place}" for place in range(1, len(INCIDENTS.names) + 1))
_UPSERT = (
    f"INSERT INTO incidents ({', '.join(INCIDENTS.names)}) VALUES ({_MARKS})"
    " ON CONFLICT (incident_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in INCIDENTS.names[1:])
)
_AMONG: dict[Dialect, str] = {
    "sqlite": "IN (SELECT value FROM json_each($1))",
    "postgres": "= ANY(CAST($1 AS text[]))",
}
_FIRST: dict[Dialect, str] = {"sqlite": "max", "postgres": "greatest"}

_INCIDENT_NAMES = ", ".join(
    (*(name for name in INCIDENTS.names if name != "received_at_unix_ms"), "status")
)
_PAGE = (
    f"SELECT {_INCIDENT_NAMES} FROM incidents"
    " WHERE last_seen_at_unix_ms >= CAST($1 AS bigint)"
    " AND (CAST($2 AS text) IS NULL OR tenant_id = CAST($2 AS text))"
    " AND (last_seen_at_unix_ms < CAST($3 AS bigint)"
    " OR (last_seen_at_unix_ms = CAST($3 AS bigint) AND incident_id > CAST($4 AS text)))"
    " ORDER BY last_seen_at_unix_ms DESC, incident_id LIMIT CAST($5 AS bigint)"
)
_ONE = f"SELECT {_INCIDENT_NAMES} FROM incidents WHERE incident_id = $1"
_TIMELINE = (
    f"SELECT {', '.join(ALERTS.names)}, status FROM alerts WHERE incident_id = $1"
    f" ORDER BY observed_at_unix_ms, created_at_unix_ms, alert_id LIMIT {TIMELINE_MAX}"
)
_TIME_MAX = (1 << 63) - 1


def alert_rows(alerts: Iterable[Alert], *, texts: Texts) -> list[Row]:
    """Rows of ``alerts``, each alert once as its repeats left it, sorted by their keys."""
    found: dict[Row, Row] = {}
    for alert in alerts:
        row = _row(alert, texts)
        key = alert_key(row)
        before = found.get(key)
        found[key] = row if before is None else _merged(before, row)
    return [found[key] for key in sorted(found)]


def alert_key(row: Row) -> Row:
    """What makes the alert of a row the same alert: whose it is, and its id."""
    return tuple(row[_AT[name]] for name in ALERTS.key)


def _row(alert: Alert, texts: Texts) -> Row:
    values = {name: getattr(alert, _ATTRIBUTES.get(name, name), None) for name in ALERTS.names}
    values["techniques"] = texts(alert.techniques)
    values["rule_references"] = texts(alert.references)
    values["targets"] = texts(alert.targets)
    values["evidence"] = _json(alert.evidence)
    values["processes"] = _json(alert.processes)
    values["lane"] = lane_of(alert.level)
    values["incident_id"] = incident_of(alert)
    return tuple(values.values())


def incident_of(alert: Alert) -> str | None:
    """Id of the incident it belongs to; None if its lineage is not known."""
    if not alert.lineage:
        return None
    return incident_id(
        tenant_id=alert.tenant_id,
        agent_id=alert.agent_id,
        boot_id=alert.boot_id,
        lineage=alert.lineage,
    )


def _merged(first: Row, again: Row) -> Row:
    """The first of two rows of one alert, with what the other has more of."""
    row = list(first)
    for name in _GREATEST:
        row[_AT[name]] = max(first[_AT[name]], again[_AT[name]])
    row[_AT["source"]] = min(first[_AT["source"]], again[_AT["source"]])
    row[_AT["targets"]] = max(first, again, key=lambda each: each[_AT["count"]])[_AT["targets"]]
    return tuple(row)


def settle(rows: Sequence[Row], *, repeated: Iterable[Row], dialect: Dialect) -> Steps[None]:
    """What is to be done once the new ones of some rows are inserted, in the same transaction.

    Args:
        rows: all of them.
        repeated: those that had been there before; may be any others too.
        dialect: the database's.
    """
    grow = _GROW.format(greatest=_FIRST[dialect])
    names = (*_GREATEST, "source", "alert_id", "tenant_id", "agent_id", "targets")
    for row in repeated:
        yield grow, [row[_AT[name]] for name in names]
    touched = sorted({row[_AT["incident_id"]] for row in rows} - {None})
    if not touched:
        return
    if dialect == "postgres":
        # Another writer may be adding to the same incidents: who comes second sums up both.
        keys = sorted({UUID(each).int & 0x7FFF_FFFF for each in touched})
        yield _LOCK, [keys]
    among = touched if dialect == "postgres" else _json(touched)
    sums = yield _SUMS.format(among=_AMONG[dialect]), [among]
    for *plain, alerts, hits, score, level, severity in sums:
        words = (LEVELS[level], SEVERITIES[severity])
        yield _UPSERT, [*plain, int(alerts), int(hits), score, *words]


def read_page(*, since_unix_ms: int, limit: int, cursor: str, tenant_id: str | None) -> Steps[Any]:
    """As `Store.incidents`."""
    seen, _, after = cursor.partition("-")
    seen_ms = int(seen) if cursor else _TIME_MAX
    rows = yield _PAGE, [since_unix_ms, tenant_id, seen_ms, after, limit + 1]
    found = [Incident(*row) for row in rows[:limit]]
    more = len(rows) > limit and bool(found)
    last = f"{found[-1].last_seen_at_unix_ms}-{found[-1].incident_id}" if more else ""
    return IncidentPage(found, last)


def read_timeline(key: str) -> Steps[Any]:
    """As `Store.incident`."""
    rows = yield _ONE, [key]
    if not rows:
        return None
    alerts = yield _TIMELINE, [key]
    return Timeline(Incident(*rows[0]), [_stored(tuple(row)) for row in alerts])


def _stored(row: Row) -> StoredAlert:
    values = dict(zip((*ALERTS.names, "status"), row, strict=True))
    values["techniques"] = _tuple(values["techniques"])
    values["references"] = _tuple(values.pop("rule_references"))
    values["targets"] = _tuple(values["targets"])
    values["evidence"] = _decode_evidence(values["evidence"])
    values["processes"] = _decode_processes(values["processes"])
    del values["incident_id"]
    lane, status = values.pop("lane"), values.pop("status")
    last = values.pop("last_observed_at_unix_ms")
    return StoredAlert(Alert(**values), lane, status, last)


def _tuple(texts: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(msgspec.json.decode(texts) if isinstance(texts, str) else texts)


_decode_evidence: Callable[[str], Any] = msgspec.json.Decoder(Evidence).decode
_decode_processes: Callable[[str], Any] = msgspec.json.Decoder(tuple[LineageProcess, ...]).decode


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
