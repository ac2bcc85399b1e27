"""From a sweep's events and alerts to the messages that are spooled. Pure but for the ids' epoch.

Sequence numbers are given when a message is made and kept only if it was spooled: `BatchMaker.keep`
after the spool has it, nothing after it has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from actors.alerting import Firsts, Origin, alert_message
from actors.detection.alerts import Alert
from transport import messages
from transport.messages import (
    BATCH_MAX_BYTES,
    EVENTS_MAX,
    Batch,
    Counters,
    Evidence,
    Host,
    ProbeCounts,
    encode,
    message_id,
)
from transport.spool_records import NewItem
from transport.subjects import ALERTS, Address, subject

_EventKey = tuple[int, int, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who publishes, from where, under which subjects."""

    address: Address
    host: Host
    epoch: str
    telemetry_prefix: str


def probe_counts(probes: Mapping[str, Mapping[str, int]]) -> dict[str, ProbeCounts]:
    """The probes' counters as they travel."""
    return {name: ProbeCounts(**counts) for name, counts in probes.items()}


class BatchMaker:
    """Makes the messages of one life of the agent, in sequence.

    Args:
        sender: what every message says of its origin.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._telemetry_subject = subject(sender.telemetry_prefix, sender.address)
        self._alert_subject = subject(ALERTS, sender.address)
        self.next_seq = 0
        self.next_batch = 0
        self._after = (0, 0)
        self._origin = Origin(address=sender.address, host=sender.host, source="agent")
        self._firsts = Firsts()

    def telemetry(
        self, events: Sequence[messages.Event], counters: Counters, *, now_unix_ms: int
    ) -> list[NewItem]:
        """Batches of these events, in order; one without events where there are none.

        Each carries ``counters`` with ``spooled`` as of its own end. A batch that grows too large
        for the broker is halved.
        """
        seq, number = self.next_seq, self.next_batch
        items = []
        parts = [events[i : i + EVENTS_MAX] for i in range(0, len(events), EVENTS_MAX)] or [events]
        while parts:
            part = parts.pop(0)
            payload = self._payload(part, counters, seq=seq, number=number, now_unix_ms=now_unix_ms)
            if len(payload) > BATCH_MAX_BYTES and len(part) > 1:
                middle = len(part) // 2
                parts[:0] = [part[:middle], part[middle:]]
                continue
            epoch = self._sender.epoch
            items.append(
                NewItem(
                    kind="telemetry",
                    message_id=message_id(*self._sender.address, payload),
                    subject=self._telemetry_subject,
                    payload=payload,
                    epoch=epoch,
                    first_seq=seq,
                    events=len(part),
                )
            )
            seq += len(part)
            number += 1
        self._after = (seq, number)
        return items

    def keep(self) -> None:
        """The spool has what `telemetry` made last: the next messages follow on it."""
        self.next_seq, self.next_batch = self._after

    @property
    def next_batch_after(self) -> int:
        """`next_batch` as it will be once what was made last is kept."""
        return self._after[1]

    def _payload(
        self,
        events: Sequence[messages.Event],
        counters: Counters,
        *,
        seq: int,
        number: int,
        now_unix_ms: int,
    ) -> bytes:
        sender = self._sender
        return encode(
            Batch(
                batch_id=f"{sender.epoch}-{number}",
                agent_id=sender.address.agent_id,
                tenant_id=sender.address.tenant_id,
                host=sender.host,
                epoch=sender.epoch,
                observed_at_unix_ms=now_unix_ms,
                first_seq=seq,
                last_seq=seq + len(events) - 1,
                counters=msgspec.structs.replace(counters, spooled=seq + len(events)),
                events=list(events),
            )
        )

    def event_ids(self, events: Sequence[messages.Event]) -> dict[_EventKey, str]:
        """The id each of these events will have, by what an alert says of its event."""
        epoch, first = self._sender.epoch, self.next_seq
        return {
            (event.time_ns, event.pid, event.start_ns, str(event.__struct_config__.tag)): (
                messages.event_id(epoch, first + index)
            )
            for index, event in enumerate(events)
        }

    def alert(
        self, alert: Alert, *, event_id: str, evidence: Evidence, now_unix_ms: int
    ) -> NewItem:
        """The message of one alert; without an ``event_id`` its event is not published."""
        sender = self._sender
        made = alert_message(
            alert,
            self._origin,
            self._firsts,
            epoch=sender.epoch,
            event_id=event_id,
            evidence=evidence,
            created_at_unix_ms=now_unix_ms,
        )
        payload = encode(made)
        return NewItem(
            kind="alert",
            message_id=message_id(*sender.address, payload),
            subject=self._alert_subject,
            payload=payload,
            epoch=sender.epoch,
        )
