"""A session: one connection to a broker, kept up, for programs that speak trio.

The NATS side (`wire`, `link`) runs in asyncio, inside the single crossing that `Session.run` makes.
What trio asks of it goes through plain calls that append to its buffers; what it has for trio it
leaves in lists and sets events. Both are one thread, so neither ever waits for the other.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog
import trio

from transport import crossing
from transport.credentials import Identity, read_identity, read_tls, without_secrets
from transport.deliveries import Delivery, dead_letter
from transport.errors import BrokerTooOld, TransportError, Unauthorized, Unreachable
from transport.feed import Feed
from transport.link import Link
from transport.publishing import Job, Outgoing, Receipt
from transport.settings import BrokerSettings
from transport.streams import Consumer
from transport.wire import Wire

__all__ = [
    "Delivery",
    "Feed",
    "Outgoing",
    "Receipt",
    "Session",
    "SessionStatistics",
]

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

PING_SECS = 5.0
"""A broker that leaves three pings unanswered is gone."""
_DELAY_FIRST_SECS = 0.1
_DELAY_MAX_SECS = 10.0
_BURY_SECS = 5.0
_BURY_AGAIN_SECS = 10.0
_GIVE_UP_SECS = 1.0
_TOLD_MAX = 64


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """What a session did; all counts only grow.

    ``published = acked + failed`` whenever no `publish_all` is under way.
    """

    published: int = 0
    """Messages given to `publish_all`."""
    acked: int = 0
    """Of these, those the broker said it has."""
    duplicates: int = 0
    """Of the acked, those it had before."""
    failed: int = 0
    """Those without an ack; they may have been stored all the same."""
    delivered: int = 0
    """Messages that a feed's receiver took."""
    dead_lettered: int = 0
    """Messages delivered too often, now among the dead letters."""
    given_up: int = 0
    """Messages that could not even be dead letters."""
    acks_dropped: int = 0
    """Acks, naks and terms for deliveries of a lost connection; those messages come again."""
    reconnects: int = 0
    """Connections after the first."""


class Session:
    """A connection that comes back.

    Args:
        settings: broker, credentials, certificates. Their files are read here, once.
        name: shown in the broker's monitoring and logs.
        url: instead of the settings' one.
        inbox_prefix: where answers come; ``_INBOX.<name>`` if None. The broker's permissions must
            let us subscribe below it.
        identity: instead of the settings' one; see `transport.local_key`.
        ping_secs: how often to see whether the broker is alive.
        chance: a number from 0 to 1, for jitter.

    Raises:
        CredentialsError: a file is not what it should be.
        ValueError: the url is no ``nats://`` or ``tls://`` one.
    """

    def __init__(  # noqa: PLR0913 - what it needs, by name
        self,
        settings: BrokerSettings,
        *,
        name: str,
        url: str | None = None,
        inbox_prefix: str | None = None,
        identity: Identity | None = None,
        ping_secs: float = PING_SECS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._name = name
        self._url = url or settings.url
        self._shown = without_secrets(self._url)
        if urlsplit(self._url).scheme not in ("nats", "tls"):
            raise ValueError(f"{self._shown}: give a nats:// or tls:// address")
        self._is_local = identity is not None
        self._identity = read_identity(settings) if identity is None else identity
        self._tls = read_tls(settings, self._url)
        self._inbox_prefix = inbox_prefix or f"_INBOX.{name}"
        self._ping_secs = ping_secs
        self._chance = chance
        self._link: Link | None = None
        self._up = trio.Event()
        self._generation = 0
        self._feeds: list[Feed] = []
        self._counts: Counter[str] = Counter()
        self._told: set[str] = set()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._link is not None

    @property
    def generation(self) -> int:
        """Counts the connections; a delivery says of which one it is."""
        return self._generation

    async def wait_connected(self) -> None:
        """Wait until there is a connection."""
        await trio.lowlevel.checkpoint()
        while self._link is None:
            await self._up.wait()

    def statistics(self) -> SessionStatistics:
        """The counters now."""
        delivered = sum(feed.delivered for feed in self._feeds)
        return SessionStatistics(
            **{**self._counts, "delivered": self._counts["delivered"] + delivered}
        )

    async def run(self) -> None:
        """Connect and stay connected until cancelled; closes within about two seconds.

        Needs `transport.crossing.open_loop` around it. Before the first connection a refusal is an
        error; afterwards, like anything else, something that may pass.

        Raises:
            Unauthorized: the broker refuses the credentials.
            BrokerTooOld: it is older than 2.10.
        """
        await crossing.call(self._stay)

    async def publish_all(
        self, messages: Sequence[Outgoing], *, within_secs: float
    ) -> list[Receipt]:
        """Publish into streams, all in flight at once, and wait for the acks.

        Never raises for a message that failed: its receipt says why. Send it again with the same
        id; the broker recognises it within two minutes. Cancelled, nobody knows what was stored.
        """
        self._counts["published"] += len(messages)
        job = Job(messages)
        receipts: list[Receipt] = []
        try:
            receipts = await self._published(job, within_secs=within_secs)
        finally:
            acked = sum(receipt.stored for receipt in receipts)
            self._counts["acked"] += acked
            self._counts["duplicates"] += sum(receipt.duplicate for receipt in receipts)
            self._counts["failed"] += len(messages) - acked
        return receipts

    async def _published(self, job: Job, *, within_secs: float) -> list[Receipt]:
        link = self._link
        if link is None:
            await trio.lowlevel.checkpoint()
            return job.finish(f"not connected to {self._shown}")
        link.publisher.add(job)
        try:
            with trio.move_on_after(within_secs):
                await job.done.wait()
        finally:
            link.publisher.forget(job)
        return job.finish(f"no ack within {within_secs} s")

    def publish_core(self, subject: str, payload: bytes) -> bool:
        """Publish for whoever listens now; nothing tells whether it arrived.

        Returns:
            False if there is no connection, or it does not take more, or the message is too large.
        """
        link = self._link
        if link is None or not link.takes_more():
            return False
        try:
            link.wire.send(subject, payload)
        except ValueError as error:
            self._tell(f"cannot publish on {subject!r}: {error}")
            return False
        return True

    async def request(self, subject: str, payload: bytes, *, within_secs: float) -> bytes:
        """Ask and wait for the answer.

        Raises:
            Unreachable: there is no connection, or no answer in time.
        """
        await trio.lowlevel.checkpoint()
        link = self._link
        if link is None:
            raise Unreachable(f"not connected to {self._shown}")
        return await link.ask(subject, payload, within_secs=within_secs)

    @asynccontextmanager
    async def consume(
        self,
        consumer: Consumer,
        *,
        batch: int = 256,
        max_bytes: int = 4 << 20,
        deadletter: bool = True,
    ) -> AsyncIterator[Feed]:
        """A receive channel of what a durable consumer delivers; it survives lost connections.

        Args:
            consumer: it must be there (`transport.streams.ensure`).
            batch: messages of a list at most.
            max_bytes: bytes asked for at once; what is held is at most about twice that.
            deadletter: what was delivered more than five times goes to the dead letters and not to
                the receiver. Without it, that is the receiver's affair.
        """

        async def bury(dead: Sequence[Delivery]) -> None:
            await self._bury(dead, durable=consumer.durable)

        feed = Feed(
            consumer,
            batch=batch,
            max_bytes=max_bytes,
            bury=bury if deadletter else None,
            working=self.working,
            release=lambda waiting: self.nak(waiting, delay_secs=0),
        )
        self._feeds.append(feed)
        if self._link is not None:
            self._link.attach([feed])
        try:
            yield feed
        finally:
            feed.close()
            self._feeds.remove(feed)
            self._counts["delivered"] += feed.delivered
            if self._link is not None:
                self._link.drop(feed)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are done with."""
        self._settle(deliveries, b"+ACK")

    def nak(self, deliveries: Sequence[Delivery], *, delay_secs: float = 0.0) -> None:
        """They shall come again, no sooner than after the delay."""
        delay_ns = int(delay_secs * 1e9)
        self._settle(deliveries, b'-NAK {"delay": %d}' % delay_ns if delay_ns > 0 else b"-NAK")

    def term(self, deliveries: Sequence[Delivery]) -> None:
        """They shall never come again."""
        self._settle(deliveries, b"+TERM")

    def working(self, deliveries: Sequence[Delivery]) -> None:
        """They are in progress: the ack wait begins again."""
        self._settle(deliveries, b"+WPI", matters=False)

    def _settle(self, deliveries: Sequence[Delivery], word: bytes, *, matters: bool = True) -> None:
        link = self._link
        for each in deliveries:
            # A connection later the same number may be another message: the stream may be new.
            if link is not None and each.generation == link.generation:
                link.wire.send(each.reply, word)
            elif matters:
                self._counts["acks_dropped"] += 1

    def dead_letter(self, delivery: Delivery, *, durable: str, why: str = "") -> Outgoing:
        """A message as a dead letter of a consumer, fit for this broker."""
        largest = self._link.wire.max_payload if self._link else 0
        return dead_letter(delivery, durable=durable, payload_max_bytes=largest, why=why)

    async def _bury(self, dead: Sequence[Delivery], *, durable: str) -> None:
        letters = [self.dead_letter(each, durable=durable) for each in dead]
        receipts = await self.publish_all(letters, within_secs=_BURY_SECS)
        for each, letter, receipt in zip(dead, letters, receipts, strict=True):
            if receipt.stored:
                self.term([each])
                self._counts["dead_lettered"] += 1
                log.error(
                    "message goes to the dead letters",
                    subject=each.subject,
                    stream=each.stream,
                    stream_seq=each.stream_seq,
                    deliveries=each.deliveries,
                    dead_letter=letter.subject,
                )
            elif receipt.permanent:
                self.term([each])
                self._counts["given_up"] += 1
                log.error(
                    "message is given up: it cannot even be a dead letter",
                    subject=each.subject,
                    stream=each.stream,
                    stream_seq=each.stream_seq,
                    why=receipt.error,
                )
            else:
                self.nak([each], delay_secs=_BURY_AGAIN_SECS)
                self._tell(f"no dead letter on {letter.subject}: {receipt.error}")

    # From here on: asyncio.

    async def _stay(self) -> None:
        attempt = 0
        while True:
            began = trio.current_time()
            try:
                wire = await self._open()
            except (BrokerTooOld, Unauthorized) as error:
                if not self._generation:
                    raise
                self._unreachable(str(error))
            except Exception as error:  # noqa: BLE001 - of whatever kind: it may work next time
                self._unreachable(str(error) or type(error).__name__)
            else:
                await self._use(wire)
            if trio.current_time() > began + _DELAY_MAX_SECS:
                attempt = 0
            await asyncio.sleep(delay_secs(attempt, chance=self._chance()))
            attempt += 1

    async def _open(self) -> Wire:
        wire = Wire(on_error=self._heard)
        opening = asyncio.ensure_future(
            wire.open(
                self._url,
                name=self._name,
                identity=self._identity,
                tls=self._tls,
                ping_secs=self._ping_secs,
            )
        )
        # Whoever is cancelled here does not ask for its error, and that would end the loop.
        opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        opened = False
        try:
            # Python 3.11's `wait_for`, which nats-py uses, may swallow a cancellation. In a task of
            # its own that delays us by a second; awaited here, it would leave us uncancelled.
            await asyncio.wait({opening})
            opening.result()
            opened = True
        except BrokerTooOld as error:
            raise BrokerTooOld(f"{self._shown}: {error}") from None
        except Exception as error:
            if _is_refusal(error):
                raise Unauthorized(self._advice(str(error))) from None
            raise
        finally:
            if not opened:
                await _to_its_end(_abandon(opening, wire))
        return wire

    async def _use(self, wire: Wire) -> None:
        """Have the connection until it is lost."""
        self._generation += 1
        if self._generation > 1:
            self._counts["reconnects"] += 1
        link = Link(wire, generation=self._generation, inbox_prefix=self._inbox_prefix)
        self._link = link
        link.attach(self._feeds)
        self._told.clear()
        log.info("broker connected", url=self._shown, version=str(wire.connected_server_version))
        self._up.set()
        reason = "closed"
        try:
            reason = await asyncio.shield(wire.lost)
            log.warning("broker lost", url=self._shown, reason=reason)
        finally:
            # `shut` still sends what was acked before this; later acks are dropped and counted.
            self._link = None
            self._up = trio.Event()
            link.end(f"the connection to {self._shown} was lost: {reason}")
            await _to_its_end(wire.shut())

    def _unreachable(self, reason: str) -> None:
        if reason not in self._told and len(self._told) < _TOLD_MAX:
            self._told.add(reason)
            log.warning("broker cannot be reached", url=self._shown, reason=reason)

    def _heard(self, text: str) -> None:
        self._tell(text)
        if self._link is not None:
            self._link.refused(f"the broker refuses it: {text}")

    def _tell(self, reason: str) -> None:
        if reason not in self._told and len(self._told) < _TOLD_MAX:
            self._told.add(reason)
            log.error("broker or session refuses", url=self._shown, reason=reason)

    def _advice(self, text: str) -> str:
        if self._is_local:
            key = self._identity.public_key
            what = f"the stack, whose key of user {key} was found here; start this after it"
        elif self._settings.credentials_file:
            what = f"[broker] credentials_file {self._settings.credentials_file}"
        elif self._settings.nkey_seed_file:
            key = self._identity.public_key
            what = f"[broker] nkey_seed_file {self._settings.nkey_seed_file}, of user {key}"
        else:
            what = (
                "the url; [broker] names neither a credentials_file nor an nkey_seed_file, and an"
                " agent that was started before the stack of its machine has not found its key"
            )
        return f"{self._shown} refuses us ({text.removeprefix('nats: ')}): check {what}"


def delay_secs(attempt: int, *, chance: float) -> float:
    """How long to wait after the n-th failure, from 0: twice as long each time, half of it chance.

    Without chance all agents of a broker that comes back would come back in the same moment.
    """
    longest = min(_DELAY_MAX_SECS, _DELAY_FIRST_SECS * 2.0 ** min(attempt, 10))
    return longest * (1 + chance) / 2


async def _abandon(opening: asyncio.Future[None], wire: Wire) -> None:
    """Leave a connection that is not open yet."""
    opening.cancel()
    await asyncio.wait({opening}, timeout=_GIVE_UP_SECS)
    await wire.shut()  # which ends whatever swallowed the cancellation
    await asyncio.wait({opening}, timeout=_GIVE_UP_SECS)


async def _to_its_end(cleanup: Coroutine[Any, Any, None]) -> None:
    """Clean up, asyncio's way of a shield: who is cancelled meanwhile is cancelled afterwards."""
    task = asyncio.ensure_future(cleanup)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


def _is_refusal(error: BaseException) -> bool:
    """Whether the broker does not know these credentials; the protocol has only text for it."""
    text = str(error).lower()
    return not isinstance(error, TransportError) and (
        "authorization violation" in text
        or "authentication expired" in text
        or "authentication revoked" in text
    )
