"""The engine of one boot of one agent, as the workers run it. Pure and deterministic.

Given the same batches it gives the same alerts, byte for byte, in whichever worker: an alert's time
is its event's, its id is made of the event's, and what it remembers travels in snapshots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from actors.alerting import Firsts, Origin, alert_message, note_cut
from actors.detection import alerts as engine_alerts
from actors.detection import snapshots
from actors.detection.conditions import EVENT_TYPES
from actors.detection.engine import Engine
from actors.detection.events import AnyEvent, Identity
from actors.detection.ruleset import RuleSet
from transport import gaps, messages
from transport.messages import Alert, CanonicalBatch, Gap, Host
from transport.subjects import Address

_GAPS_MAX = 64
_EPOCHS_MAX = 8


class _Saved(msgspec.Struct, frozen=True):
    """What a snapshot is made of."""

    engine: bytes
    firsts: list[tuple[str, Identity, str, str]]
    gaps: list[Gap]
    next_seqs: dict[str, int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Saved).decode


class HostEngine:
    """Implements `services.detection.engine.Detection`.

    Args:
        rules: gives the rules in force; asked before each batch.
        address: whose host.
        host: which boot.
        snapshot: to go on from, or None.

    Raises:
        ValueError: the snapshot is not understood.
    """

    def __init__(
        self, rules: Callable[[], RuleSet], address: Address, host: Host, snapshot: bytes | None
    ) -> None:
        self.poisoned: list[tuple[int, str]] = []
        self._rules = rules
        self._origin = Origin(address=address, host=host, source="worker")
        self._gaps: deque[Gap] = deque(maxlen=_GAPS_MAX)
        self._next_seqs: dict[str, int] = {}
        if snapshot is None:
            self._engine = Engine(rules(), hostname=host.hostname, every_repeat=False)
            self._firsts = Firsts()
        else:
            saved = _decode(snapshot)
            self._engine = self._restored(saved.engine)
            self._firsts = Firsts(saved.firsts)
            self._gaps.extend(saved.gaps)
            self._next_seqs = dict(saved.next_seqs)

    def process(self, batch: CanonicalBatch) -> list[Alert]:
        """The alerts of a batch that are worth telling."""
        rules = self._rules()
        if self._engine.rules is not rules:
            self._engine = self._restored(snapshots.take(self._engine))
        self._note_gaps(batch)
        events: list[AnyEvent] = list(batch.events)
        positions: list[int] = []
        poisoned: list[tuple[int, str]] = []
        found = self._engine.process_batch(events, positions=positions, poisoned=poisoned)
        boot_ns = self._origin.host.boot_unix_ns
        for cut in self._engine.cuts:
            note_cut(self._gaps, cut, boot_unix_ns=boot_ns)
        seqs = batch.sequence_numbers() if found or poisoned else []
        self.poisoned = [(seqs[position], why) for position, why in poisoned]
        return [
            alert_message(
                alert,
                self._origin,
                self._firsts,
                epoch=batch.epoch,
                event_id=_event_id(alert, epoch=batch.epoch, seq=seqs[position]),
                evidence=self._evidence(alert.time_ns, window_secs=alert.window_secs),
            )
            for alert, position in zip(found, positions, strict=True)
        ]

    def snapshot(self) -> bytes:
        """All it remembers."""
        return _encode(
            _Saved(
                snapshots.take(self._engine),
                self._firsts.known(),
                list(self._gaps),
                self._next_seqs,
            )
        )

    def _restored(self, taken: bytes) -> Engine:
        hostname = self._origin.host.hostname
        return snapshots.restore(self._rules(), taken, hostname=hostname, every_repeat=False)

    def _note_gaps(self, batch: CanonicalBatch) -> None:
        """Take note of what the agent says is missing, and of what has not come."""
        for gap in batch.counters.gaps:
            gaps.note(self._gaps, gap)
        now_ms = batch.observed_at_unix_ms
        for each in batch.counters.evicted:
            count = each.last_seq - each.first_seq + 1
            self._note(now_ms, f"evicted: {each.reason}"[:64], count)
        if batch.rejected:
            self._note(now_ms, "rejected_by_ingest", len(batch.rejected))
        # Every life begins at 0: without history, what came before counts as missing.
        expected = self._next_seqs.pop(batch.epoch, 0)
        if batch.first_seq > expected:
            self._note(now_ms, "not_received", batch.first_seq - expected)
        self._next_seqs[batch.epoch] = max(expected, batch.last_seq + 1)
        while len(self._next_seqs) > _EPOCHS_MAX:
            del self._next_seqs[next(iter(self._next_seqs))]

    def _note(self, now_ms: int, reason: str, events: int) -> None:
        # Of an agent's numbers: what is beyond a gap's bounds would make alerts undecodable.
        self._gaps.append(Gap(0, now_ms, reason, min(max(events, 0), messages.I63_MAX)))

    def _evidence(self, time_ns: int, *, window_secs: int) -> messages.Evidence:
        """What is missing from the window that ends at a moment."""
        end_ms = (self._origin.host.boot_unix_ns + time_ns) // 1_000_000
        begin_ms = end_ms - 1000 * window_secs
        found = [
            gap for gap in self._gaps if gap.to_unix_ms > begin_ms and gap.from_unix_ms <= end_ms
        ]
        return found or "complete"


def _event_id(alert: engine_alerts.Alert, *, epoch: str, seq: int) -> str:
    """The id of the event that decided an alert; none decided one about what was forgotten."""
    return messages.event_id(epoch, seq) if alert.event in EVENT_TYPES else ""
