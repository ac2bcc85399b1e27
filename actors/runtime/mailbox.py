"""The mailbox: a bounded queue with one reader, an overflow policy and a counter for each loss.

It is not a `trio.open_memory_channel`: that has no `drop_oldest`, and does not know which message
is in hand when its reader crashes. The hand-over to blocked senders is the same as trio's.
"""

from collections import OrderedDict, deque
from collections.abc import Sized
from typing import Any, Literal

import trio

from actors.runtime.errors import (
    AskDroppedError,
    AskError,
    AskTimeoutError,
    TargetCrashedError,
    TargetStoppedError,
)

Overflow = Literal["block", "drop_newest", "drop_oldest"]
Loss = Literal[
    "dropped_newest", "dropped_oldest", "refused", "poisoned", "interrupted", "undelivered"
]

WEIGHT_MAX = 2 << 20
"""What the messages that wait may weigh together; one that weighs more still waits alone."""

_NOTHING = object()
_ASK_ERRORS: dict[Loss, type[AskError]] = {
    "dropped_newest": AskDroppedError,
    "dropped_oldest": AskDroppedError,
    "poisoned": TargetCrashedError,
    "interrupted": TargetStoppedError,
    "refused": TargetStoppedError,
    "undelivered": TargetStoppedError,
}


def items_in(message: Any) -> int:
    """How many items a message stands for: its length if it has one, else 1."""
    return len(message) if isinstance(message, Sized) else 1


def weight_of(message: Any) -> int:
    """What a message takes beyond the ordinary, in bytes: its ``weight`` if it has one."""
    weight: int = getattr(message, "weight", 0)
    return weight


class _Question:
    """An asked message in the queue, and the place where its asker waits."""

    __slots__ = ("answered", "error", "message", "reply")

    def __init__(self, message: Any) -> None:
        self.message = message
        self.answered = trio.Event()
        self.reply: Any = None
        self.error: AskError | None = None

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.reply


class Mailbox:
    """Bounded queue of messages, owned by a supervisor and lent to one actor at a time.

    Args:
        owner: name of the actor that reads it.
        capacity: messages it holds, at least 1; the one in hand is not among them. They may weigh
            `WEIGHT_MAX` together.
        overflow: what happens to a message that finds it full.

    Any task may put; one task at a time takes. What was taken is *in hand* until `done`, or the
    next take, or until the supervisor calls `lose_in_hand` because the actor ended.
    """

    def __init__(self, owner: str, *, capacity: int = 64, overflow: Overflow = "block") -> None:
        if capacity < 1:
            raise ValueError(f"the mailbox of {owner} holds {capacity} messages; 1 is the least")
        self.owner = owner
        self.capacity = capacity
        self.overflow = overflow
        self.received = 0
        self.handled = 0
        self.items_dropped = 0
        self.losses: dict[Loss, int] = dict.fromkeys(_ASK_ERRORS, 0)
        self._queue: deque[Any] = deque()
        self._weight = 0
        # Invariant: whoever waits here waits because the queue is full; a free place goes to the
        # longest waiter at once, so nobody can slip in before it. A heavy waiter may wait for more
        # than one place; those behind it wait with it.
        self._blocked: OrderedDict[trio.lowlevel.Task, Any] = OrderedDict()
        self._taker: trio.lowlevel.Task | None = None
        self._in_hand: Any = _NOTHING
        self._closed = False

    @property
    def depth(self) -> int:
        """Messages waiting."""
        return len(self._queue)

    @property
    def senders_blocked(self) -> int:
        """Tasks waiting to put."""
        return len(self._blocked)

    @property
    def has_room(self) -> bool:
        """Whether `put_nowait` would deal with a message, be it by dropping one."""
        return self._closed or self.overflow != "block" or not self._is_full()

    @property
    def in_hand(self) -> str | None:
        """Type name of the message in hand, for logs; None if there is none."""
        if self._in_hand is _NOTHING:
            return None
        return type(_unwrap(self._in_hand)).__name__

    def put_nowait(self, message: Any) -> bool:
        """Put a message, or drop one by policy, and count it.

        Returns:
            False only if the mailbox is full under `block`: the caller still has the message. A
            closed mailbox takes the message and counts it as refused, since the sender can do no
            better.
        """
        if self._closed:
            self._lose(message, loss="refused")
            return True
        weight = weight_of(message)
        while self._blocked or self._is_full(weight):
            if self.overflow == "block":
                return False
            if self.overflow == "drop_newest":
                self._lose(message, loss="dropped_newest")
                return True
            self._lose(self._pop(), loss="dropped_oldest")
        self._append(message, weight)
        self._wake_taker()
        return True

    def _is_full(self, weight: int = 0) -> bool:
        """Whether there is no place for a message of this weight."""
        queue = self._queue
        return len(queue) >= self.capacity or (
            self._weight + weight > WEIGHT_MAX and bool(self._weight)
        )

    def _append(self, message: Any, weight: int) -> None:
        self._queue.append(message)
        self._weight += weight
        self.received += 1

    def _pop(self) -> Any:
        message = self._queue.popleft()
        self._weight -= weight_of(message)
        return message

    async def put(self, message: Any) -> None:
        """Put a message, waiting for a place under `block`.

        Cancelled, it leaves the mailbox unchanged. A mailbox that closes meanwhile counts the
        message as refused.
        """
        await trio.lowlevel.checkpoint()
        if self.put_nowait(message):
            return
        task = trio.lowlevel.current_task()
        self._blocked[task] = message

        def give_up(_: object) -> trio.lowlevel.Abort:
            del self._blocked[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    async def ask(self, message: Any, *, within_secs: float) -> Any:
        """Put a message and wait for what the actor's `handle` returns for it.

        Cancelled or late, the message may still be handled, and its reply goes nowhere.

        Raises:
            AskTimeoutError: no reply within `within_secs`, the wait for a place included.
            AskDroppedError: dropped by the overflow policy.
            TargetCrashedError: the actor crashed with this message in hand.
            TargetStoppedError: the actor is stopped, or was stopped before it replied.
        """
        question = _Question(message)
        with trio.move_on_after(within_secs):
            await self.put(question)
            await question.answered.wait()
        # Not `cancelled_caught`: a reply that comes with the deadline is a reply.
        if not question.answered.is_set():
            raise AskTimeoutError(f"{self.owner} did not reply within {within_secs} s")
        return question.outcome()

    async def take(self) -> Any:
        """The oldest message, which is then in hand; one before it counts as handled.

        Cancelled, it leaves the mailbox unchanged.

        Raises:
            trio.EndOfChannel: the mailbox is closed and empty.
            trio.BusyResourceError: another task is waiting here.
        """
        self.done()
        if self._queue or self._closed:
            await trio.lowlevel.checkpoint()
            return self.take_nowait()
        if self._taker is not None:
            raise trio.BusyResourceError(f"two tasks take from the mailbox of {self.owner}")
        self._taker = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._taker = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        return self.take_nowait()

    def take_nowait(self) -> Any:
        """Like `take`, but raises `trio.WouldBlock` where that would wait."""
        self.done()
        if not self._queue:
            raise trio.EndOfChannel if self._closed else trio.WouldBlock
        self._in_hand = self._pop()
        while self._blocked:
            weight = weight_of(next(iter(self._blocked.values())))
            if self._is_full(weight):
                break
            task, message = self._blocked.popitem(last=False)
            self._append(message, weight)
            trio.lowlevel.reschedule(task)
        return _unwrap(self._in_hand)

    def done(self, reply: Any = None) -> None:
        """Count the message in hand, if any, as handled; `reply` goes to whoever asked."""
        in_hand = self._in_hand
        if in_hand is _NOTHING:
            return
        self._in_hand = _NOTHING
        self.handled += 1
        if type(in_hand) is _Question:
            in_hand.reply = reply
            in_hand.answered.set()

    def lose_in_hand(self, loss: Loss) -> None:
        """Count the message in hand, if any, as lost."""
        in_hand, self._in_hand = self._in_hand, _NOTHING
        if in_hand is not _NOTHING:
            self._lose(in_hand, loss=loss)

    def close(self) -> None:
        """Let nobody put any more; what waits inside can still be taken. Idempotent."""
        self._closed = True
        while self._blocked:
            task, message = self._blocked.popitem(last=False)
            self._lose(message, loss="refused")
            trio.lowlevel.reschedule(task)
        self._wake_taker()

    def discard(self) -> None:
        """Empty the mailbox and count what was in it as undelivered."""
        while self._queue:
            self._lose(self._pop(), loss="undelivered")

    def _wake_taker(self) -> None:
        if self._taker is not None:
            trio.lowlevel.reschedule(self._taker)
            self._taker = None

    def _lose(self, entry: Any, *, loss: Loss) -> None:
        self.losses[loss] += 1
        self.items_dropped += items_in(_unwrap(entry))
        if type(entry) is _Question:
            entry.error = _ASK_ERRORS[loss](f"{self.owner}: {loss.replace('_', ' ')}")
            entry.answered.set()


def _unwrap(entry: Any) -> Any:
    return entry.message if type(entry) is _Question else entry
