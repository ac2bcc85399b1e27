"""How long things are kept: from the settings to a moment for each table. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from services.store import tables
from services.store.settings import StoreSettings

DAY_MS = 86_400_000
_LAST_MS = 253_402_300_799_999
"""The end of the year 9999, beyond which there are no dates."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(unix_ms: int) -> datetime:
    """The timestamp of a time; the last there is for what lies beyond."""
    return _EPOCH + timedelta(milliseconds=min(unix_ms, _LAST_MS))


def day_of(unix_ms: int) -> date:
    """The day of a time, in UTC."""
    return moment(unix_ms).date()


def _cutoff(days: int, now_unix_ms: int) -> int:
    return max(0, now_unix_ms // DAY_MS - days) * DAY_MS


def event_cutoff(settings: StoreSettings, *, now_unix_ms: int) -> int:
    """Events received before this are too old: the beginning of a day."""
    return _cutoff(settings.retention_days, now_unix_ms)


def plain_cutoffs(settings: StoreSettings, *, now_unix_ms: int) -> list[tuple[str, int]]:
    """The same for each of the tables that hold no events, by name."""
    events = event_cutoff(settings, now_unix_ms=now_unix_ms)
    alerts = _cutoff(settings.alert_retention_days, now_unix_ms)
    kept = [(table.name, events) for table in tables.KEPT_LIKE_EVENTS]
    return [*kept, *((table.name, alerts) for table in (tables.ALERTS, tables.INCIDENTS))]
