"""What the worker asks of an engine: one follows one boot of one agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transport.messages import Alert, CanonicalBatch, Host
from transport.subjects import Address


class Detection(Protocol):
    """An engine and all it remembers. Deterministic: the same batches give the same alerts."""

    @property
    def poisoned(self) -> Sequence[tuple[int, str]]:
        """Sequence numbers of the events of the last batch that made it fail, each with why."""

    def process(self, batch: CanonicalBatch) -> list[Alert]:
        """What a batch shows. If it raises, the engine is not used any more."""

    def snapshot(self) -> bytes:
        """All it remembers, in an encoding that names its version."""


class MakeDetection(Protocol):
    """Makes an engine."""

    def __call__(self, address: Address, host: Host, snapshot: bytes | None) -> Detection:
        """A new one, or one as it was.

        Raises:
            Exception: of any kind, if the snapshot is not understood; then a new one is made.
        """
