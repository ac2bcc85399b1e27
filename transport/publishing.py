"""Publishes in flight: what was sent to JetStream and is not answered yet."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import trio

from transport.frames import MESSAGE_ID, decode_headers, decode_pub_ack, message_id_text
from transport.wire import Wire

IN_FLIGHT_MAX = 256
IN_FLIGHT_MAX_BYTES = 4 << 20
BACKLOG_MAX_BYTES = 8 << 20
"""Written to the connection and not taken by the system yet."""
_LOOK_AGAIN_SECS = 0.05
_PERMANENT = frozenset((10054, 10097))
"""JetStream's errors of one message: larger than the stream's messages may be, its headers too."""
_SUBJECT_FULL = "maximum messages per subject exceeded"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for a stream."""

    subject: str
    payload: bytes
    message_id: str
    """The same id within two minutes is the same message: sending it again is harmless."""
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.message_id:
            raise ValueError("a message without an id may be stored twice")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a publish."""

    stored: bool
    """The broker says it has it. If not, and not `permanent`, send it again under the same id."""
    duplicate: bool = False
    """It had it before."""
    error: str = ""
    """Why it was not stored, as far as is known; empty if it was."""
    permanent: bool = False
    """It can never be stored as it is: sent again it would fail again."""
    subject_full: bool = False
    """Its subject has as many messages as one may have; those of others are not concerned."""


class Job:
    """The messages of one `publish_all`, and a receipt for each as it comes.

    Args:
        messages: what to send, in order.
    """

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.messages = messages
        self.receipts: list[Receipt | None] = [None] * len(messages)
        self.done = trio.Event()
        self.abandoned = False
        self._missing = len(messages)
        if not messages:
            self.done.set()

    def settle(self, index: int, receipt: Receipt) -> None:
        """The receipt of one message; the first one counts."""
        if self.receipts[index] is None:
            self.receipts[index] = receipt
            self._missing -= 1
            if not self._missing:
                self.done.set()

    def finish(self, error: str) -> list[Receipt]:
        """All receipts; those that did not come say ``error``."""
        self.abandoned = True
        missing = Receipt(stored=False, error=error)
        return [receipt or missing for receipt in self.receipts]


@dataclass(slots=True)
class _Sent:
    job: Job
    index: int
    size: int


class Publisher:
    """The window of publishes of one connection: so many in flight, the others wait their turn.

    Args:
        wire: the connection.
        inbox: where answers come, ending in a token of our own.
        later: calls a function after so many seconds.
    """

    def __init__(
        self, wire: Wire, *, inbox: str, later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._wire = wire
        self._inbox = inbox
        self._later = later
        self._waiting: deque[tuple[Job, int]] = deque()
        self._in_flight: dict[int, _Sent] = {}
        self._bytes = 0
        self._tokens = itertools.count()
        self._looking_again = False
        self._lost = ""
        wire.listen(f"{inbox}.*", self._answered)

    def add(self, job: Job) -> None:
        """Send its messages as there is room."""
        self._waiting.extend((job, index) for index in range(len(job.messages)))
        self._pump()

    def forget(self, job: Job) -> None:
        """Nobody waits for it any more."""
        job.abandoned = True
        for token in [token for token, sent in self._in_flight.items() if sent.job is job]:
            self._landed(token)
        self._waiting = deque(each for each in self._waiting if each[0] is not job)
        self._pump()

    def refused(self, error: str) -> None:
        """The broker refused a subject; `error` names it, in lower case."""
        for token, sent in list(self._in_flight.items()):
            named = f'"{sent.job.messages[sent.index].subject.lower()}"'
            if named in error:
                self._landed(token)
                sent.job.settle(sent.index, Receipt(stored=False, error=error))
        self._pump()

    def fail(self, error: str) -> None:
        """The connection is lost: what is not answered will not be."""
        self._lost = error
        receipt = Receipt(stored=False, error=error)
        for sent in self._in_flight.values():
            sent.job.settle(sent.index, receipt)
        for job, index in self._waiting:
            job.settle(index, receipt)
        self._in_flight.clear()
        self._waiting.clear()

    def _pump(self) -> None:
        while (
            self._waiting
            and len(self._in_flight) < IN_FLIGHT_MAX
            and self._bytes < IN_FLIGHT_MAX_BYTES
        ):
            if self._wire.pending_data_size > BACKLOG_MAX_BYTES:
                self._look_again()
                return
            job, index = self._waiting.popleft()
            if not job.abandoned:
                self._send(job, index)

    def _send(self, job: Job, index: int) -> None:
        message = job.messages[index]
        token = next(self._tokens)
        headers = {**(message.headers or {}), MESSAGE_ID: message_id_text(message.message_id)}
        reply = f"{self._inbox}.{token}"
        try:
            self._wire.send(message.subject, message.payload, reply=reply, headers=headers)
        except ValueError as error:
            job.settle(index, Receipt(stored=False, error=str(error), permanent=True))
            return
        self._in_flight[token] = _Sent(job, index, len(message.payload))
        self._bytes += len(message.payload)

    def _look_again(self) -> None:
        """The connection does not take what it has: nothing else may come that would wake us."""
        if not self._looking_again and not self._lost:
            self._looking_again = True
            self._later(_LOOK_AGAIN_SECS, self._looked_again)

    def _looked_again(self) -> None:
        self._looking_again = False
        self._pump()

    def _answered(self, subject: bytes, _: bytes, payload: bytes, headers: bytes | None) -> None:
        token = subject.rpartition(b".")[2]
        sent = self._landed(int(token)) if token.isdigit() else None
        if sent is None:  # too late
            return
        sent.job.settle(sent.index, _receipt(payload, headers))
        self._pump()

    def _landed(self, token: int) -> _Sent | None:
        sent = self._in_flight.pop(token, None)
        if sent is not None:
            self._bytes -= sent.size
        return sent


def _receipt(payload: bytes, headers: bytes | None) -> Receipt:
    if headers and (status := decode_headers(headers).status):
        why = "no stream takes this subject, or JetStream is not ready" if status == 503 else ""
        return Receipt(stored=False, error=why or f"the broker answered with status {status}")
    try:
        ack = decode_pub_ack(payload)
    except msgspec.MsgspecError as error:
        return Receipt(stored=False, error=f"the answer is not understood: {error}")
    if ack.error is not None:
        code = ack.error.err_code
        return Receipt(
            stored=False,
            error=f"{ack.error.description} ({code})",
            permanent=code in _PERMANENT,
            # The code is that of every failure to store; only the text says which.
            subject_full=ack.error.description == _SUBJECT_FULL,
        )
    if not ack.stream or not ack.seq:
        return Receipt(stored=False, error="the answer names no stream")
    return Receipt(stored=True, duplicate=ack.duplicate)
