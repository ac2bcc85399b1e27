"""Incidents: what the alerts of one lineage add up to. Records, and what is decided of them. Pure.

An incident is derived from the alerts that are stored and from nothing else, so alerts may come
again and in any order. Informational alerts open none, and belong to one that others opened. Its
status is people's: an alert that comes later does not change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from uuid import uuid5

from actors.detection.events import Level
from transport.messages import ALERT_NAMESPACE, Alert, Severity

Lane: TypeAlias = Literal["page", "quiet"]
"""Whether an alert may call anybody; ``quiet`` ones are for who looks."""
Status: TypeAlias = Literal["open", "acknowledged", "resolved", "dismissed"]
TIMELINE_MAX = 1000
"""Alerts that are told of one incident at most."""


def lane_of(level: Level) -> Lane:
    """The lane of an alert, by its rule's level."""
    return "quiet" if level == "informational" else "page"


def incident_id(*, tenant_id: str, agent_id: str, boot_id: str, lineage: str) -> str:
    """UUIDv5 of a lineage: all its alerts, whoever raises them, give the same id."""
    return str(uuid5(ALERT_NAMESPACE, f"incident/{tenant_id}.{agent_id}.{boot_id}.{lineage}"))


@dataclass(frozen=True, slots=True)
class Incident:
    """The alerts of one lineage, summed up."""

    incident_id: str
    tenant_id: str
    agent_id: str
    hostname: str
    boot_id: str
    lineage: str
    """``<pid>-<start_ns>`` of the root of the lineage."""
    first_seen_at_unix_ms: int
    """When the first of its alerts was observed, by the agent's clock."""
    last_seen_at_unix_ms: int
    alerts: int
    hits: int
    """How often its rules fired: of each rule the greatest count an alert told."""
    score: int
    """The greatest score among its alerts."""
    level: Level
    """The highest level among its alerts."""
    severity: Severity
    status: Status


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """Incidents, the one seen last first."""

    incidents: Sequence[Incident]
    cursor: str
    """Where the next page begins; empty if this was the last."""


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert as the store has it."""

    alert: Alert
    lane: Lane
    status: Status
    last_observed_at_unix_ms: int
    """When its rule last fired in this lineage."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """An incident with its alerts."""

    incident: Incident
    alerts: Sequence[StoredAlert]
    """By the time they were observed; `TIMELINE_MAX` of them at most."""
