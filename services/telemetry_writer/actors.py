"""The actors of the telemetry writer."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from actors.runtime import Actor
from services.gate import Gate
from services.store.interface import Added, Store, Telemetry
from services.writing import Writer
from transport.messages import CanonicalBatch, CanonicalSingle, Invalid

_telemetry: msgspec.json.Decoder[Telemetry] = msgspec.json.Decoder(CanonicalBatch | CanonicalSingle)
_decode_invalid = msgspec.json.Decoder(Invalid).decode


class TelemetryWriter(Writer):
    """Stores canonical messages: their events, and their line of the ledger."""

    def decode(self, payload: bytes, *, now_unix_ms: int) -> Telemetry:  # noqa: ARG002 - stamped
        """A canonical message."""
        return _telemetry.decode(payload)

    async def add(self, store: Store, messages: Sequence[Telemetry]) -> Added:
        """Store them."""
        return await store.add_telemetry(messages)


class InvalidWriter(Writer):
    """Stores what was refused, so that the ledger can say where it went."""

    checks_subject = False  # tenant and agent were made fit to be stored

    def decode(self, payload: bytes, *, now_unix_ms: int) -> Invalid:  # noqa: ARG002 - stamped
        """A refusal."""
        return _decode_invalid(payload)

    async def add(self, store: Store, messages: Sequence[Invalid]) -> Added:
        """Store them."""
        return await store.add_invalid(messages)


class Retainer(Actor):
    """Source that keeps the store's retention: at the start and every hour.

    Args:
        gate: the store.
    """

    tick_secs = 3600.0

    def __init__(self, *, gate: Gate) -> None:
        self._gate = gate

    async def run(self) -> None:
        """Retain once, then by the hour."""
        await self.tick()
        await super().run()

    async def tick(self) -> None:
        """Remove what is too old, prepare for what is to come."""
        now_ms = time.time_ns() // 1_000_000
        await self._gate.call(lambda store: store.retain(now_ms))
