"""A feed: the deliveries of one durable consumer, over whatever connection there is."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
import trio

from transport.deliveries import Delivery, decode_delivery
from transport.frames import decode_headers
from transport.streams import DELIVERIES_MAX, Consumer
from transport.wire import Wire

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

EXPIRES_SECS = 5.0
"""The broker ends a request after this long."""
OVERDUE_SECS = 2.0
"""If it does not, by so much, the request got lost."""
_AFTER_ERROR_SECS = 1.0
_EARLY = 3
"""A buffered message is said to be in progress so many times per ack wait."""
_IDLE, _NO_MESSAGES, _TIMED_OUT, _CONFLICT = 100, 404, 408, 409


class Feed(trio.abc.ReceiveChannel[list[Delivery]]):
    """Receive channel of lists of deliveries, oldest first, never empty.

    One request for ``batch`` messages is open at a time, and the next one goes out when it has been
    filled and fewer than ``batch`` messages wait here: so up to twice ``batch`` are held, and
    twice ``max_bytes``. What waits here is kept in progress; what was received is the receiver's to
    settle. When the connection is lost what waits is let go, and comes again. It never ends.

    Args:
        consumer: which durable consumer.
        batch: messages of a list at most.
        max_bytes: bytes of one request's messages; a larger single message still comes.
        bury: sends to the dead letters what was delivered too often; None to receive that too.
        working: says that deliveries are in progress.
        release: gives deliveries back.
    """

    def __init__(  # noqa: PLR0913 - what it needs, by name
        self,
        consumer: Consumer,
        *,
        batch: int,
        max_bytes: int,
        bury: Callable[[Sequence[Delivery]], Awaitable[None]] | None,
        working: Callable[[Sequence[Delivery]], None],
        release: Callable[[Sequence[Delivery]], None],
    ) -> None:
        if batch < 1 or max_bytes < 1:
            raise ValueError(f"batch = {batch}, max_bytes = {max_bytes}: both must be at least 1")
        self.consumer = consumer
        self.delivered = 0
        self._batch = batch
        self._max_bytes = max_bytes
        self._bury = bury
        self._working = working
        self._release = release
        self._buffer: list[Delivery] = []
        self._dead: list[Delivery] = []
        self._ready = trio.Event()
        self._closed = False
        self._wire: Wire | None = None
        self._generation = 0
        self._inbox = ""
        self._listening = 0
        self._numbers = itertools.count()
        self._request = b""
        self._missing = 0
        self._came = 0
        self._oversized = False
        self._asked_at = 0.0
        self._not_before = 0.0
        self._kept_at = 0.0
        self._told = ""

    async def receive(self) -> list[Delivery]:
        """Wait for deliveries. Cancelled, it has taken none.

        Raises:
            trio.ClosedResourceError: it was closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._dead and self._bury is not None:
                dead = self._dead
                await self._bury(dead)
                # Those of a lost connection are gone from here already.
                self._dead = [each for each in self._dead if each not in dead]
            try:
                taken = self.receive_nowait()
            except trio.WouldBlock:
                await self._ready.wait()
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return taken

    def receive_nowait(self) -> list[Delivery]:
        """Take what waits.

        Raises:
            trio.WouldBlock: nothing does.
            trio.ClosedResourceError: it was closed.
        """
        if self._closed:
            raise trio.ClosedResourceError
        if not self._buffer:
            if not self._dead:
                self._ready = trio.Event() if self._ready.is_set() else self._ready
            raise trio.WouldBlock
        taken = self._buffer[: self._batch]
        del self._buffer[: self._batch]
        self.delivered += len(taken)
        self._ask()
        return taken

    def close(self) -> None:
        """Stop asking, give back what waits."""
        self._closed = True
        waiting = [*self._buffer, *self._dead]
        if self._wire is not None:
            self._wire.unlisten(self._listening, leftover=self._came_late)
            self._release(waiting)
        self.detach()

    async def aclose(self) -> None:
        """As `close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    # The session's side: these run in asyncio too, and never wait.

    def attach(self, wire: Wire, *, generation: int, inbox: str) -> None:
        """There is a connection."""
        self._wire, self._generation, self._inbox = wire, generation, inbox
        self._listening = wire.listen(f"{inbox}.*", self._arrived)
        self._not_before = self._kept_at = 0.0
        self._ask()

    def detach(self) -> None:
        """The connection is gone, and with it the right to ack what came over it."""
        self._wire = None
        self._request, self._missing = b"", 0
        self._buffer.clear()
        self._dead = []
        self._ready.set()

    def tick(self) -> None:
        """Every second or so: mend what got lost, keep alive what waits."""
        now = trio.current_time()
        if self._request and now > self._asked_at + EXPIRES_SECS + OVERDUE_SECS:
            self._request, self._missing = b"", 0
            self._tell("no answer; is the consumer there?")
        self._ask()
        if now > self._kept_at + self.consumer.ack_wait_secs / _EARLY:
            self._kept_at = now
            self._working([*self._buffer, *self._dead])

    def _ask(self) -> None:
        """Open a request, if none is open and there is room."""
        now = trio.current_time()
        if self._wire is None or self._request or now < self._not_before:
            return
        if len(self._buffer) + len(self._dead) >= self._batch:
            return
        body: dict[str, int] = {"batch": self._batch, "expires": int(EXPIRES_SECS * 1e9)}
        if self._oversized:  # the next message alone is larger than `max_bytes`
            body["batch"] = 1
        else:
            body["max_bytes"] = self._max_bytes
        reply = f"{self._inbox}.{next(self._numbers)}"
        self._request, self._missing = reply.encode(), body["batch"]
        self._came, self._oversized, self._asked_at = 0, False, now
        path = f"{self.consumer.stream}.{self.consumer.durable}"
        self._wire.send(f"$JS.API.CONSUMER.MSG.NEXT.{path}", msgspec.json.encode(body), reply=reply)

    def _arrived(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        if not reply.startswith(b"$JS.ACK."):
            self._ended(subject, decode_headers(headers).status, headers)
            return
        try:
            delivery = decode_delivery(
                subject, reply, payload, headers, generation=self._generation
            )
        except ValueError as error:  # no broker's: whoever knows our inbox may write to it
            self._tell(f"what came is no delivery: {error}")
            return
        if self._bury is not None and delivery.deliveries > DELIVERIES_MAX:
            self._dead.append(delivery)
        else:
            self._buffer.append(delivery)
        self._ready.set()
        self._came += 1
        self._missing -= 1
        self._told = ""
        if self._missing <= 0:
            self._request = b""
            self._ask()

    def _came_late(self, subject: bytes, reply: bytes, payload: bytes, _: bytes | None) -> None:
        """Give back what was on its way when we closed; else it would wait for the ack wait."""
        with contextlib.suppress(ValueError):  # it is none
            late = decode_delivery(subject, reply, payload, None, generation=self._generation)
            self._release([late])

    def _ended(self, request: bytes, status: int, headers: bytes | None) -> None:
        """The broker says something about a request, if it is the open one."""
        if status == _IDLE or request != self._request:
            return
        self._request, self._missing = b"", 0
        description = decode_headers(headers).description
        if status == _CONFLICT and "maxbytes" in description.lower().replace(" ", ""):
            self._oversized = self._came == 0
        elif status not in (_NO_MESSAGES, _TIMED_OUT):
            self._not_before = trio.current_time() + _AFTER_ERROR_SECS
            self._tell(description or f"status {status}; is the consumer there?")
        self._ask()

    def _tell(self, reason: str) -> None:
        """Log a reason once, until something is delivered again."""
        if reason != self._told:
            self._told = reason
            log.warning(
                "broker delivers nothing",
                stream=self.consumer.stream,
                consumer=self.consumer.durable,
                reason=reason,
            )
