"""What the agent's actors tell each other; batches, never single events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from actors.detection.alerts import Alert
from actors.detection.cuts import Cut
from actors.detection.events import AnyEvent, ConnectEvent, ExecEvent


class EventBatch(msgspec.Struct, frozen=True):
    """What one ring held at one sweep (reader to correlator)."""

    ring: int
    """Index of the ring; orders events of the same nanosecond."""
    sweep: int
    """Number of the sweep; see `actors.agent.sensor`."""
    expected: int
    """How many batches this sweep has."""
    events: Sequence[AnyEvent]
    position: int = 0
    """How far its ring has been read with them."""
    read: int = 0
    """Events read from all rings by then."""
    weight: int = 0
    """Bytes of the ring beyond what as many ordinary events take; see `actors.runtime.mailbox`."""

    def __len__(self) -> int:
        return len(self.events)


class EventLog(msgspec.Struct, frozen=True):
    """One sweep's events in the order in which detection took them (correlator to recorder)."""

    events: Sequence[AnyEvent]
    weight: int = 0

    def __len__(self) -> int:
        return len(self.events)


class Telemetry(msgspec.Struct, frozen=True):
    """One sweep for the publisher: what was seen, and how far the rings have been read with it."""

    events: Sequence[AnyEvent]
    """In the order in which detection took them; executions and connections with their ancestry."""
    alerts: Sequence[Alert]
    positions: Mapping[str, int]
    """Read positions of the rings that took part."""
    read: int
    """Events read from all rings since the start, these included."""
    weight: int = 0
    cuts: Sequence[Cut] = ()
    """What detection forgot for lack of room."""

    def __len__(self) -> int:
        return len(self.events)


class Activity(msgspec.Struct, frozen=True):
    """Executions and connections to show, each with the ancestry at that moment."""

    entries: Sequence[tuple[ExecEvent | ConnectEvent, str]]
    weight: int = 0

    def __len__(self) -> int:
        return len(self.entries)


class AlertBatch(msgspec.Struct, frozen=True):
    """Alerts in the order in which they were raised."""

    alerts: Sequence[Alert]

    def __len__(self) -> int:
        return len(self.alerts)


class Response(msgspec.Struct, frozen=True):
    """One decision about one process."""

    pid: int
    start_ns: int
    comm: str
    action: str
    """killed, would_kill, protected, gone or failed."""
    reason: str
    dry_run: bool
    score: int
    rule: str
    time_ns: int
    """Boot time of the decision, nanoseconds."""


class ResponseBatch(msgspec.Struct, frozen=True):
    """Decisions of the responder."""

    responses: Sequence[Response]

    def __len__(self) -> int:
        return len(self.responses)


class StatisticsRequest(msgspec.Struct, frozen=True):
    """Asks the correlator for the engine's statistics."""


class Status(msgspec.Struct, frozen=True):
    """The heartbeat's record: every counter there is."""

    record: dict[str, Any]
