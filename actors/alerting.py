"""From the engine's alert to the message that travels: the same for the agent and the workers."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

from actors.detection.alerts import Alert
from actors.detection.cuts import Cut
from actors.detection.events import Identity
from transport import messages
from transport.gaps import note
from transport.messages import Evidence, Gap, Host
from transport.subjects import Address

_FIRSTS_MAX = 8192
Key: TypeAlias = tuple[str, Identity, str]
"""(rule id, root of the lineage, what the alert is about)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Whose engine raised alerts about which host."""

    address: Address
    host: Host
    source: Literal["agent", "worker"]


class Firsts:
    """The id of the first alert of each rule, lineage and target: its repeats are told under it.

    The least recently told goes first; a repeat of what was forgotten begins anew.
    """

    def __init__(self, known: list[tuple[str, Identity, str, str]] | None = None) -> None:
        self._ids: OrderedDict[Key, str] = OrderedDict(
            ((rule_id, root, target), alert_id) for rule_id, root, target, alert_id in known or ()
        )

    def known(self) -> list[tuple[str, Identity, str, str]]:
        """Return all, for a snapshot."""
        return [(*key, alert_id) for key, alert_id in self._ids.items()]

    def id_of(self, alert: Alert, event: str) -> str:
        """Return the id under which an alert is told: of its event, or of the first one's."""
        key = (alert.rule_id, alert.lineage, alert.target)
        first = "" if alert.first else self._ids.pop(key, "")
        first = self._ids[key] = first or messages.alert_id(event, alert.rule)
        self._ids.move_to_end(key)
        if len(self._ids) > _FIRSTS_MAX:
            self._ids.popitem(last=False)
        return first


def note_cut(gaps: deque[Gap], cut: Cut, *, boot_unix_ns: int) -> None:
    """Add what detection forgot to the gaps of the recent past."""
    from_ms, to_ms = (max(0, boot_unix_ns + at) // 1_000_000 for at in (cut.from_ns, cut.to_ns))
    note(gaps, Gap(from_ms, to_ms, cut.kind, cut.count))


def alert_message(  # noqa: PLR0913 - what is known of one alert
    alert: Alert,
    origin: Origin,
    firsts: Firsts,
    *,
    epoch: str,
    event_id: str,
    evidence: Evidence,
    created_at_unix_ms: int | None = None,
) -> messages.Alert:
    """Return the message of one alert.

    Args:
        alert: The engine's.
        origin: Whose it is.
        firsts: For the id of a repeat.
        epoch: The agent's life.
        event_id: Of the deciding event; empty if that is not published.
        evidence: Whether everything before it was seen.
        created_at_unix_ms: When it was raised; None for the time of the event.
    """
    observed_ms = (origin.host.boot_unix_ns + alert.time_ns) // 1_000_000
    # Unpublished, an event is still the only one of its time, process and kind.
    named = event_id or f"{epoch}:{alert.time_ns}:{alert.pid}:{alert.event}"
    return messages.Alert(
        alert_id=firsts.id_of(alert, named),
        tenant_id=origin.address.tenant_id,
        agent_id=origin.address.agent_id,
        hostname=origin.host.hostname,
        rule=alert.rule,
        severity=alert.severity,  # type: ignore[arg-type]  # the engine's words are the same
        detail=alert.detail,
        event_type=alert.event,
        event_pid=alert.pid,
        event_comm=alert.comm,
        created_at_unix_ms=observed_ms if created_at_unix_ms is None else created_at_unix_ms,
        observed_at_unix_ms=observed_ms,
        event_id=event_id,
        epoch=epoch,
        rule_id=alert.rule_id,
        techniques=alert.techniques,
        ancestry=alert.ancestry,
        score=alert.score,
        base_score=alert.base_score,
        lineage_bonus=alert.lineage_bonus,
        rarity_bonus=alert.rarity_bonus,
        sequence_bonus=alert.sequence_bonus,
        evidence=evidence,
        level=alert.level,
        author=alert.author,
        references=alert.references,
        boot_id=origin.host.boot_id,
        lineage="{}-{}".format(*alert.lineage) if any(alert.lineage) else "",
        processes=alert.processes,
        count=alert.count,
        source=origin.source,
        exe=alert.exe,
        uid=alert.uid,
        start_ns=alert.start_ns,
        targets=alert.targets,
    )
