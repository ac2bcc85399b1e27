"""The engine of the workers: a place for it. It raises no alert."""

from __future__ import annotations

from transport.messages import Alert, CanonicalBatch, Host
from transport.subjects import Address


class Silence:
    """Implements `services.detection.engine.Detection`, seeing nothing."""

    def process(self, batch: CanonicalBatch) -> list[Alert]:  # noqa: ARG002 - of the protocol
        """Nothing."""
        return []

    def snapshot(self) -> bytes:
        """Nothing."""
        return b""


def make_detection(address: Address, host: Host, snapshot: bytes | None) -> Silence:  # noqa: ARG001
    """Implements `services.detection.engine.MakeDetection`."""
    return Silence()
