"""Claims: the messages this process has taken from a stream and not settled yet.

JetStream gives a message to somebody else after the ack wait. One that waits here for a slow store,
or behind another, is therefore said to be in progress from time to time; one whose actor crashed is
given back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from services.progress import Progress
from transport.session import Delivery, Session

RETRY_SECS = 1.0
"""After a failure a message comes again after this long."""


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Messages as they came, oldest first."""

    items: Sequence[Delivery]

    def __len__(self) -> int:
        return len(self.items)


class Claims:
    """Messages in this process's hands, by stream sequence number.

    Args:
        session: where they came from and where acks go.
        durable: the consumer that they come from.
    """

    def __init__(self, session: Session, *, durable: str = "") -> None:
        self.durable = durable
        self.progress = Progress()
        self._session = session
        self._held: dict[int, Delivery] = {}
        self.acked = 0
        self.returned = 0
        """Given back for a later delivery."""
        self.ended = 0
        """Terminated: refused for good."""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Take them in hand."""
        for each in deliveries:
            self._held[each.stream_seq] = each
        if self._held:
            self.progress.has_work()

    def keep(self) -> None:
        """Tell the broker that all are in progress; call it more often than the ack wait."""
        if self._held:
            self.progress.has_work()
            self._session.working(list(self._held.values()))

    @contextmanager
    def settling(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """Give back what is still in hand if the block fails or is cancelled."""
        finished = False
        try:
            yield
            finished = True
        finally:
            if not finished:
                self.give_back([each for each in deliveries if each.stream_seq in self._held])

    def give_back_all(self) -> None:
        """Give back whatever is in hand, at once: the process ends."""
        self.give_back(list(self._held.values()), delay_secs=0)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are done with."""
        if deliveries:
            self._session.ack(self._release(deliveries))
            self.acked += len(deliveries)
            self.progress.finished(all_of_it=not self._held)

    def give_back(self, deliveries: Sequence[Delivery], *, delay_secs: float = RETRY_SECS) -> None:
        """They shall come again."""
        if deliveries:
            self._session.nak(self._release(deliveries), delay_secs=delay_secs)
            self.returned += len(deliveries)

    def put_off(self, deliveries: Sequence[Delivery], *, delay_secs: float) -> None:
        """They shall come again when it is their turn: that much is done about them now."""
        if deliveries:
            self.give_back(deliveries, delay_secs=delay_secs)
            self.progress.finished(all_of_it=not self._held)

    def end(self, deliveries: Sequence[Delivery]) -> None:
        """They shall never come again."""
        if deliveries:
            self._session.term(self._release(deliveries))
            self.ended += len(deliveries)
            self.progress.finished(all_of_it=not self._held)

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """They are no affair of ours any more: their consumer is somebody else's."""
        self._release(deliveries)

    def _release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        for each in deliveries:
            self._held.pop(each.stream_seq, None)
        return deliveries
