from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.runtime import (
    AskDroppedError,
    AskError,
    AskTimeoutError,
    Mailbox,
    Overflow,
    TargetCrashedError,
    TargetStoppedError,
)
from actors.runtime.mailbox import WEIGHT_MAX

POLICIES: list[Overflow] = ["block", "drop_newest", "drop_oldest"]


def conserved(mailbox: Mailbox) -> bool:
    """`received` equals everything that can become of a message that entered."""
    losses = mailbox.losses
    return mailbox.received == (
        mailbox.handled
        + losses["poisoned"]
        + losses["interrupted"]
        + losses["dropped_oldest"]
        + losses["undelivered"]
        + mailbox.depth
        + (mailbox.in_hand is not None)
    )


class MailboxAgainstAList(RuleBasedStateMachine):
    """Everything that does not wait, against a list and plain arithmetic."""

    @initialize(capacity=st.integers(1, 4), overflow=st.sampled_from(POLICIES))
    def make(self, capacity: int, overflow: Overflow) -> None:
        self.mailbox = Mailbox("model", capacity=capacity, overflow=overflow)
        self.queue: list[list[int]] = []
        self.losses = dict.fromkeys(self.mailbox.losses, 0)
        self.items = 0
        self.handled = 0
        self.in_hand: list[int] | None = None
        self.closed = False

    def lose(self, loss: Any, message: list[int]) -> None:
        self.losses[loss] += 1
        self.items += len(message)

    @rule(message=st.lists(st.integers(), max_size=3))
    def put(self, message: list[int]) -> None:
        room = self.mailbox.has_room
        accepted = self.mailbox.put_nowait(message)
        assert accepted is room
        full = len(self.queue) == self.mailbox.capacity
        if self.closed:
            self.lose("refused", message)
        elif not full:
            self.queue.append(message)
        elif self.mailbox.overflow == "drop_newest":
            self.lose("dropped_newest", message)
        elif self.mailbox.overflow == "drop_oldest":
            self.lose("dropped_oldest", self.queue.pop(0))
            self.queue.append(message)
        else:
            assert not accepted

    def settle(self) -> None:
        self.handled += self.in_hand is not None
        self.in_hand = None

    @rule()
    def take(self) -> None:
        self.settle()
        if self.queue:
            self.in_hand = self.queue.pop(0)
            assert self.mailbox.take_nowait() == self.in_hand
        else:
            with pytest.raises(trio.EndOfChannel if self.closed else trio.WouldBlock):
                self.mailbox.take_nowait()

    @rule()
    def done(self) -> None:
        self.settle()
        self.mailbox.done()

    @rule(loss=st.sampled_from(["poisoned", "interrupted"]))
    def lose_in_hand(self, loss: Any) -> None:
        if self.in_hand is not None:
            self.lose(loss, self.in_hand)
            self.in_hand = None
        self.mailbox.lose_in_hand(loss)

    @rule()
    def close(self) -> None:
        self.closed = True
        self.mailbox.close()

    @rule()
    def discard(self) -> None:
        for message in self.queue:
            self.lose("undelivered", message)
        self.queue.clear()
        self.mailbox.discard()

    @invariant()
    def agrees(self) -> None:
        assert self.mailbox.depth == len(self.queue) <= self.mailbox.capacity
        assert self.mailbox.handled == self.handled
        assert self.mailbox.losses == self.losses
        assert self.mailbox.items_dropped == self.items
        assert self.mailbox.in_hand == (None if self.in_hand is None else "list")
        assert conserved(self.mailbox)


TestMailboxAgainstAList = MailboxAgainstAList.TestCase


class BlockedSenders:
    """Senders that wait at a full mailbox, against two lists."""

    def __init__(self, nursery: trio.Nursery, capacity: int) -> None:
        self.nursery = nursery
        self.mailbox = Mailbox("model", capacity=capacity)
        self.queue: list[int] = []
        self.waiting: list[tuple[int, trio.CancelScope]] = []
        self.closed = False
        self.refused = 0

    def put(self, number: int) -> None:
        scope = trio.CancelScope()

        async def put() -> None:
            with scope:
                await self.mailbox.put(number)

        self.nursery.start_soon(put)
        if self.closed:
            self.refused += 1
        elif len(self.queue) < self.mailbox.capacity:
            self.queue.append(number)
        else:
            self.waiting.append((number, scope))

    def put_nowait(self, number: int) -> None:
        room = len(self.queue) < self.mailbox.capacity
        assert self.mailbox.put_nowait(number) == (self.closed or room)
        self.refused += self.closed
        if room and not self.closed:
            self.queue.append(number)

    def take(self, number: int) -> None:
        if self.queue:
            assert self.mailbox.take_nowait() == self.queue.pop(0)
            if self.waiting:
                self.queue.append(self.waiting.pop(0)[0])

    def cancel(self, number: int) -> None:
        if self.waiting:
            self.waiting.pop(number % len(self.waiting))[1].cancel()

    def close(self, number: int) -> None:
        self.closed = True
        self.refused += len(self.waiting)
        self.waiting.clear()
        self.mailbox.close()

    def check(self) -> None:
        assert self.mailbox.depth == len(self.queue)
        assert self.mailbox.senders_blocked == len(self.waiting)
        assert self.mailbox.losses["refused"] == self.refused
        assert conserved(self.mailbox)


@settings(deadline=None)
@given(
    capacity=st.integers(1, 3),
    steps=st.lists(st.sampled_from(["put", "put_nowait", "take", "cancel", "close"]), max_size=25),
)
async def test_blocked_senders_enter_in_the_order_in_which_they_came(
    capacity: int, steps: list[str]
) -> None:
    async with trio.open_nursery() as nursery:
        model = BlockedSenders(nursery, capacity)
        for number, step in enumerate(steps):
            getattr(model, step)(number)
            await trio.testing.wait_all_tasks_blocked()
            model.check()
        nursery.cancel_scope.cancel()


async def test_take_waits_for_a_message() -> None:
    mailbox = Mailbox("a")
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            assert await mailbox.take() == "late"

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        await mailbox.put("late")


async def test_take_ends_when_the_mailbox_closes_and_is_empty() -> None:
    mailbox = Mailbox("a")
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            with pytest.raises(trio.EndOfChannel):
                await mailbox.take()

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.close()


async def test_a_closed_mailbox_still_gives_what_it_holds() -> None:
    mailbox = Mailbox("a")
    await mailbox.put(1)
    mailbox.close()
    assert await mailbox.take() == 1
    with pytest.raises(trio.EndOfChannel):
        await mailbox.take()
    assert mailbox.handled == 1


async def test_closing_refuses_those_who_wait_to_put() -> None:
    mailbox = Mailbox("a", capacity=1)
    await mailbox.put(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.put, [2, 3])
        await trio.testing.wait_all_tasks_blocked()
        mailbox.close()
    assert (mailbox.depth, mailbox.losses["refused"], mailbox.items_dropped) == (1, 1, 2)


async def test_one_who_waits_for_the_next_message_has_handled_the_one_before() -> None:
    mailbox = Mailbox("a")
    await mailbox.put(1)
    await mailbox.take()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.take)
        await trio.testing.wait_all_tasks_blocked()
        assert (mailbox.handled, mailbox.in_hand) == (1, None)
        nursery.cancel_scope.cancel()


async def test_a_free_place_goes_to_the_one_who_waited_longest() -> None:
    mailbox = Mailbox("a", capacity=1)
    await mailbox.put(1)
    async with trio.open_nursery() as nursery:
        for number in (2, 3):
            nursery.start_soon(mailbox.put, number)
            await trio.testing.wait_all_tasks_blocked()
        assert mailbox.take_nowait() == 1
        assert not mailbox.put_nowait(4)
        assert [mailbox.take_nowait(), mailbox.take_nowait()] == [2, 3]


async def test_two_tasks_cannot_wait_for_the_same_mailbox() -> None:
    mailbox = Mailbox("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.take)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="mailbox of a"):
            await mailbox.take()
        nursery.cancel_scope.cancel()


async def test_a_cancelled_take_leaves_the_mailbox_unchanged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mailbox = Mailbox("a")
    with trio.move_on_after(1):
        await mailbox.take()
    await mailbox.put(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.take()
    assert mailbox.depth == 1
    assert await mailbox.take() == 1


async def test_every_coroutine_checkpoints() -> None:
    mailbox = Mailbox("a", capacity=2)
    with trio.testing.assert_checkpoints():
        await mailbox.put(1)
    with trio.testing.assert_checkpoints():
        await mailbox.take()
    mailbox.close()
    with trio.testing.assert_checkpoints(), pytest.raises(trio.EndOfChannel):
        await mailbox.take()
    with trio.testing.assert_checkpoints():
        await mailbox.put(2)
    with trio.testing.assert_checkpoints(), pytest.raises(TargetStoppedError):
        await mailbox.ask(2, within_secs=1)


def test_a_mailbox_holds_at_least_one_message() -> None:
    with pytest.raises(ValueError, match="the mailbox of a holds 0 messages"):
        Mailbox("a", capacity=0)


def test_a_message_without_a_length_is_one_item() -> None:
    mailbox = Mailbox("a", capacity=1, overflow="drop_newest")
    for message in (1, 2, [3, 4, 5], None):
        mailbox.put_nowait(message)
    assert mailbox.losses["dropped_newest"] == 3
    assert mailbox.items_dropped == 1 + 3 + 1


async def test_ask_returns_the_reply() -> None:
    mailbox = Mailbox("a")
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            question = await mailbox.take()
            assert mailbox.in_hand == "str"
            mailbox.done(question.upper())

        nursery.start_soon(answer)
        assert await mailbox.ask("hello", within_secs=1) == "HELLO"


async def test_ask_gives_up_in_time(autojump_clock: trio.testing.MockClock) -> None:
    mailbox = Mailbox("a", capacity=1)
    with pytest.raises(AskTimeoutError, match=r"a did not reply within 2\.5 s"):
        await mailbox.ask("hello", within_secs=2.5)
    assert trio.current_time() == 2.5
    with pytest.raises(AskTimeoutError):  # this time at the full mailbox
        await mailbox.ask("hello", within_secs=1)
    assert mailbox.depth == 1
    assert mailbox.senders_blocked == 0


async def test_a_reply_that_comes_with_the_deadline_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mailbox = Mailbox("a")
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            await mailbox.take()
            autojump_clock.jump(1.5)  # nobody has noticed yet that the deadline is past
            mailbox.done("just so")

        nursery.start_soon(answer)
        assert await mailbox.ask("hello", within_secs=1) == "just so"


@pytest.mark.parametrize(
    ("loss", "error"),
    [("poisoned", TargetCrashedError), ("interrupted", TargetStoppedError)],
)
async def test_ask_learns_that_the_target_ended(loss: Any, error: type[AskError]) -> None:
    mailbox = Mailbox("a")
    async with trio.open_nursery() as nursery:

        async def crash() -> None:
            await mailbox.take()
            mailbox.lose_in_hand(loss)

        nursery.start_soon(crash)
        with pytest.raises(error, match=f"a: {loss}"):
            await mailbox.ask("hello", within_secs=1)


async def test_ask_learns_that_it_was_left_in_the_mailbox() -> None:
    mailbox = Mailbox("a")
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.testing.wait_all_tasks_blocked()
            mailbox.close()
            mailbox.discard()

        nursery.start_soon(leave)
        with pytest.raises(TargetStoppedError, match="undelivered"):
            await mailbox.ask("hello", within_secs=1)


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
async def test_ask_learns_that_it_was_dropped(overflow: Overflow) -> None:
    mailbox = Mailbox("a", capacity=1, overflow=overflow)
    if overflow == "drop_newest":
        mailbox.put_nowait(1)
    async with trio.open_nursery() as nursery:

        async def crowd() -> None:
            await trio.testing.wait_all_tasks_blocked()
            mailbox.put_nowait(2)

        nursery.start_soon(crowd)
        with pytest.raises(AskDroppedError, match=overflow.replace("drop_", "dropped ")):
            await mailbox.ask("hello", within_secs=1)


@dataclass(frozen=True)
class Heavy:
    weight: int


HALF = WEIGHT_MAX // 2


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_heavy_messages_are_dropped_before_the_places_are_used_up(overflow: Overflow) -> None:
    mailbox = Mailbox("a", capacity=64, overflow=overflow)
    for _ in range(3):
        mailbox.put_nowait(Heavy(HALF))
    assert mailbox.depth == 2
    assert sum(mailbox.losses.values()) == 1
    while mailbox.depth:
        mailbox.take_nowait()
    assert all(mailbox.put_nowait(Heavy(0)) for _ in range(64))
    assert sum(mailbox.losses.values()) == 1


def test_a_message_heavier_than_all_that_may_wait_waits_alone() -> None:
    mailbox = Mailbox("a", capacity=64)
    assert mailbox.put_nowait(Heavy(9 * WEIGHT_MAX))
    assert not mailbox.has_room
    assert not mailbox.put_nowait(Heavy(1))
    mailbox.take_nowait()
    assert mailbox.put_nowait(Heavy(1))


async def test_a_heavy_sender_waits_until_there_is_room_and_nobody_passes_it() -> None:
    mailbox = Mailbox("a", capacity=64)
    for _ in range(4):
        mailbox.put_nowait(Heavy(HALF // 2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.put, Heavy(HALF))
        await trio.testing.wait_all_tasks_blocked()
        assert not mailbox.put_nowait(Heavy(0))
        mailbox.take_nowait()
        await trio.testing.wait_all_tasks_blocked()
        assert mailbox.senders_blocked == 1
        mailbox.take_nowait()
    assert mailbox.depth == 3
    assert mailbox.put_nowait(Heavy(0))
