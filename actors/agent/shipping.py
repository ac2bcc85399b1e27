"""Shipping: the spool, and the way from it to the broker, beside the publisher's own work.

The spool is used by one thread at a time; both sides take turns. Nothing is removed before the
broker's ack. What was in flight when the connection broke is sent again, under the same id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import structlog
import trio

from transport.errors import TransportError
from transport.messages import Evicted
from transport.publishing import Outgoing, Receipt
from transport.session import Session
from transport.spool import Spool
from transport.spool_errors import SpoolCorrupt, SpoolError
from transport.spool_evictions import Loss
from transport.spool_records import Item, Marks, NewItem, Statistics

T = TypeVar("T")
log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_MESSAGES = 64
_BYTES = 8 << 20
_PUBLISH_WITHIN_SECS = 5.0
_PAUSE_FIRST_SECS = 0.2
_PAUSE_MAX_SECS = 10.0
_REFUSED_PAUSE_SECS = 60.0
_PUT_OFF_SECS = 10.0
_LOOK_AGAIN_SECS = 0.02


def monotonic_ms() -> int:
    """Milliseconds of a clock that nobody sets and that goes on through a restart of the agent."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class _Counters(msgspec.Struct):
    evicted: list[Evicted] = []


class _Telling(msgspec.Struct):
    """The part of a batch that says what left the spool."""

    counters: _Counters


_decode_telling = msgspec.json.Decoder(_Telling).decode
_NOTHING_EVICTED = b'"evicted":[]'


def _told_by(item: Item) -> Sequence[Evicted]:
    """The evictions that a message told the backend of; few tell of any."""
    if item.kind == "alert" or _NOTHING_EVICTED in item.payload:
        return ()
    try:
        return _decode_telling(item.payload).counters.evicted
    except msgspec.MsgspecError:  # none of ours: a process of this user may write the spool
        return ()


class Shipping:
    """Keeps messages until the broker has them; oldest first, alerts before telemetry.

    Args:
        session: the broker; not yet connected.
        open_spool: opens the spool, and sets aside one that is damaged.

    Raises:
        SpoolError: the spool cannot be opened.
    """

    def __init__(self, session: Session, open_spool: Callable[[], Spool]) -> None:
        self._session = session
        self._open_spool = open_spool
        self._spool = open_spool()
        self._turn = trio.Lock()
        self._more = trio.Event()
        self._in_flight: frozenset[int] = frozenset()
        self._put_off: dict[int, float] = {}
        """Ids that are not tried before a moment."""
        self._acked: list[int] = []
        """What the broker has; taken out with the next look at the file, for threads are dear."""
        self.opened = self._spool.opened
        self.marks = self._spool.marks()
        """Where the agent before this one stood."""
        self.shipped = 0
        """Messages the broker confirmed."""
        self.refused = 0
        """Messages the broker can never take: given up."""
        self._given_up: list[Loss] = []
        """Of these, what `append` has not said yet."""
        self.damaged = 0
        """Times the spool was found damaged and replaced."""

    async def append(self, items: Sequence[NewItem], marks: Marks) -> list[Loss]:
        """Spool messages in a thread, and wake the sender; what left the spool unsent since.

        Raises:
            SpoolError: nothing was written.
        """
        losses = await self._use(
            lambda spool: spool.append(
                items, marks, now_unix_ms=monotonic_ms(), keep=self._in_flight
            )
        )
        self._more.set()
        given_up, self._given_up = self._given_up, []
        return [*losses, *given_up]

    @property
    def _waiting(self) -> int:
        """Messages that the broker does not have."""
        return self._spool.waiting - len(self._acked)

    def unreported(self) -> list[Evicted]:
        """Evictions nobody has been told of."""
        return self._spool.unreported()

    async def statistics(self) -> Statistics:
        """How full the spool is."""
        return await self._use(lambda spool: spool.statistics(now_unix_ms=monotonic_ms()))

    def publish_core(self, subject: str, payload: bytes) -> bool:
        """Send without an ack; False if nobody is there."""
        return self._session.publish_core(subject, payload)

    async def connect(self) -> None:
        """Stay connected for ever. Credentials that are refused do not stop an agent."""
        while True:
            try:
                await self._session.run()
            except TransportError as error:
                log.error(  # noqa: TRY400 - the operator's to mend: no traceback
                    "broker refuses this agent; the spool keeps everything", why=str(error)
                )
            await trio.sleep(_REFUSED_PAUSE_SECS)

    async def emptied(self) -> None:
        """Wait until nothing is left to send."""
        await trio.lowlevel.checkpoint()
        while self._waiting:  # noqa: ASYNC110 - it is rare, and over in a moment
            await trio.sleep(_LOOK_AGAIN_SECS)

    async def close(self) -> None:
        """Let go of the spool."""
        await self._use(lambda spool: spool.close())

    async def run(self) -> None:
        """Send until cancelled."""
        pause_secs = _PAUSE_FIRST_SECS
        complained = False
        while True:
            await self._session.wait_connected()
            before = self.shipped
            why = await self._send_some()
            if not why:
                pause_secs, complained = _PAUSE_FIRST_SECS, False
                continue
            if self.shipped > before:
                pause_secs = _PAUSE_FIRST_SECS
            if not complained and self._session.connected:
                complained = True
                log.warning("a batch was not taken; it is sent again", why=why)
            await trio.sleep(pause_secs)
            pause_secs = min(2 * pause_secs, _PAUSE_MAX_SECS)

    async def _send_some(self) -> str:
        """Send what is oldest, or wait for something; why it failed, empty if it did not."""
        await trio.lowlevel.checkpoint()
        now_secs = trio.current_time()
        self._put_off = {each: due for each, due in self._put_off.items() if due > now_secs}
        if not self._waiting:  # which spares a thread a look at the file
            await self._more.wait()
            self._more = trio.Event()
            return ""
        try:
            items = await self._use(
                lambda spool: spool.oldest(_MESSAGES, limit_bytes=_BYTES, skip=self._put_off)
            )
            if not items:  # all that waits was put off
                with trio.move_on_after(_PUT_OFF_SECS):
                    await self._more.wait()
                self._more = trio.Event()
                return ""
            self._in_flight = frozenset(item.id for item in items)
            receipts = await self._session.publish_all(
                [Outgoing(item.subject, item.payload, item.message_id) for item in items],
                within_secs=_PUBLISH_WITHIN_SECS,
            )
            await self._settle(items, receipts)
        except SpoolError as error:
            return str(error)
        finally:
            self._in_flight = frozenset()
        return self._failure(items, receipts)

    def _failure(self, items: Sequence[Item], receipts: Sequence[Receipt]) -> str:
        """Why to wait before more is sent; what failed among others that were taken is put off."""
        failed = [
            (item, receipt)
            for item, receipt in zip(items, receipts, strict=True)
            if not receipt.stored and not receipt.permanent
        ]
        full = [item for item, receipt in failed if receipt.subject_full and item.kind == "alert"]
        if full:  # alerts come first, and must not hold up telemetry
            self._put_all_off(full)
            log.warning(
                "stream has no room for more alerts of this agent; they wait", alerts=len(full)
            )
        failed = [each for each in failed if each[0] not in full]
        # Telemetry stays in its order: it goes on when ingest has read some.
        no_room = next((receipt.error for _, receipt in failed if receipt.subject_full), "")
        if no_room or not failed or len(failed) == len(items):
            return no_room or (failed[0][1].error if failed else "")
        # One that the broker does not take now must not hold up all that come after it.
        self._put_all_off([item for item, _ in failed])
        for item, receipt in failed:
            log.warning("a message was not taken; it waits", id=item.message_id, why=receipt.error)
        return ""

    def _put_all_off(self, items: Sequence[Item]) -> None:
        due = trio.current_time() + _PUT_OFF_SECS
        self._put_off |= dict.fromkeys((item.id for item in items), due)

    async def _settle(self, items: Sequence[Item], receipts: Sequence[Receipt]) -> None:
        """Note what the broker has, and give up what it can never have."""
        await trio.lowlevel.checkpoint()
        done = [item for item, receipt in zip(items, receipts, strict=True) if receipt.stored]
        self.shipped += len(done)
        self._acked += [item.id for item in done]
        never = [
            (item, receipt)
            for item, receipt in zip(items, receipts, strict=True)
            if receipt.permanent
        ]
        if never:
            await self._give_up(never)
        told = [run for item in done for run in _told_by(item)]
        if told:
            async with self._turn:  # in memory: no thread
                self._spool.reported(told)

    async def _give_up(self, never: Sequence[tuple[Item, Receipt]]) -> None:
        """Without this one bad message would be sent again until it is too old."""
        for item, receipt in never:
            log.error(
                "broker can never take a message; it is given up",
                id=item.message_id,
                kind=item.kind,
                bytes=len(item.payload),
                why=receipt.error,
            )
        items = [item for item, _ in never]
        self._given_up += await self._use(lambda spool: spool.give_up(items, "refused"))
        self.refused += len(items)

    async def _use(self, work: Callable[[Spool], T]) -> T:
        """Do something with the spool in a thread; a damaged one is replaced first, once."""
        async with self._turn:
            acked, self._acked = self._acked, []
            return await trio.to_thread.run_sync(self._worked, work, acked)

    def _worked(self, work: Callable[[Spool], T], acked: list[int]) -> T:
        try:
            if acked:
                self._spool.remove(acked)
            return work(self._spool)
        except SpoolCorrupt as error:
            self.damaged += 1
            self._acked, self._put_off = [], {}  # of ids that another may have now
            self._spool.close()
            self._spool = self._open_spool()
            log.error(  # noqa: TRY400 - said in full: no traceback
                "spool was damaged; it is set aside and a new one begun",
                why=str(error),
                set_aside=str(self._spool.opened.path),
            )
            return work(self._spool)
