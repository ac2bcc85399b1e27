from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from actors.runtime import (
    Actor,
    ActorStatistics,
    Context,
    Mailbox,
    UndeclaredMessageError,
)
from actors.runtime.testing import run_actor


class Event:
    pass


class Exec(Event):
    pass


class Exit(Event):
    pass


class Alert(list[str]):
    pass


def no_statistics() -> Mapping[str, ActorStatistics]:
    return {}


def context_with(
    *edges: tuple[tuple[type, ...], Mailbox], emits: tuple[type, ...] = (Event, Alert)
) -> Context:
    return Context(
        "teller", mailbox=Mailbox("teller"), emits=emits, edges=edges, statistics=no_statistics
    )


async def test_tell_reaches_every_edge_that_accepts_the_type_subclasses_included() -> None:
    events, alerts, execs = Mailbox("events"), Mailbox("alerts"), Mailbox("execs")
    context = context_with(((Event,), events), ((Alert,), alerts), ((Exec, Alert), execs))
    with trio.testing.assert_checkpoints():
        await context.tell(Exec())
    await context.tell(Exit())
    await context.tell(Alert())
    assert (events.depth, alerts.depth, execs.depth) == (2, 1, 2)
    assert context.sent == 5


async def test_tell_goes_along_the_edges_in_their_order() -> None:
    first, second = Mailbox("first", capacity=1), Mailbox("second", capacity=1)
    context = context_with(((Event,), first), ((Event,), second))
    await context.tell(Exec())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(context.tell, Exec())
        await trio.testing.wait_all_tasks_blocked()
        second.take_nowait()
        await trio.testing.wait_all_tasks_blocked()
        assert second.depth == 0  # it waits at the first
        first.take_nowait()
        await trio.testing.wait_all_tasks_blocked()
        assert second.depth == 1


async def test_a_cancelled_tell_counts_the_edges_that_went_without() -> None:
    first, second, third = Mailbox("first"), Mailbox("second", capacity=1), Mailbox("third")
    second.put_nowait("in the way")
    context = context_with(((Alert,), first), ((Alert,), second), ((Alert,), third))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(context.tell, Alert(["a", "b"]))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (first.depth, second.depth, third.depth) == (1, 1, 0)
    assert (context.sent, context.unsent, context.items_unsent) == (1, 2, 4)


async def test_tell_to_nobody_is_counted() -> None:
    context = context_with()
    await context.tell(Alert())
    assert context.tell_nowait(Alert())
    assert (context.sent, context.unrouted) == (0, 2)


async def test_telling_an_undeclared_type_is_an_error() -> None:
    context = context_with(emits=(Alert,))
    with pytest.raises(UndeclaredMessageError, match="teller does not emit Exec"):
        await context.tell(Exec())
    with pytest.raises(UndeclaredMessageError):
        context.tell_nowait(Exec())


def test_tell_nowait_reaches_all_or_none() -> None:
    first, second = Mailbox("first"), Mailbox("second", capacity=1)
    context = context_with(((Event,), first), ((Event,), second))
    assert context.tell_nowait(Exec())
    assert not context.tell_nowait(Exec())
    assert (first.depth, second.depth, context.sent) == (1, 1, 2)


async def test_ask_goes_to_the_first_edge_that_accepts_the_type() -> None:
    alerts, events = Mailbox("alerts"), Mailbox("events")
    context = context_with(((Alert,), alerts), ((Event,), events))
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            await events.take()
            events.done("seen")

        nursery.start_soon(answer)
        assert await context.ask(Exec(), within_secs=1) == "seen"


async def test_asking_nobody_is_an_error() -> None:
    with pytest.raises(UndeclaredMessageError, match="nobody answers teller's Exec"):
        await context_with().ask(Exec(), within_secs=1)


async def test_an_actor_without_handle_says_what_it_does_not_handle() -> None:
    with pytest.raises(NotImplementedError, match="Actor handles no Exec"):
        await Actor().handle(Exec())


class Ticker(Actor):
    accepts = (object,)

    def __init__(self, log: list[tuple[float, Any]], tick_secs: float | None) -> None:
        self.log = log
        self.tick_secs = tick_secs

    async def handle(self, message: float) -> None:
        await trio.sleep(message)
        self.log.append((trio.current_time(), message))

    async def tick(self) -> None:
        await super().tick()
        self.log.append((trio.current_time(), "tick"))


async def run_ticker(tick_secs: float | None, *messages: float) -> list[tuple[float, Any]]:
    log: list[tuple[float, Any]] = []
    actor = Ticker(log, tick_secs)
    actor.context = context_with()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.run)
        for message in messages:
            await actor.context.mailbox.put(message)
        await trio.sleep(3.5)
        actor.context.mailbox.close()
    assert actor.context.mailbox.handled == len(messages)
    return log


async def test_ticks_come_between_messages_and_while_there_are_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await run_ticker(1.0, 0.5, 1.25) == [
        (0.5, 0.5),
        (1.75, 1.25),
        (1.75, "tick"),
        (2.75, "tick"),
    ]


async def test_an_actor_without_tick_secs_never_ticks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await run_ticker(None, 0.5) == [(0.5, 0.5)]


class Brief(Actor):
    """Handles without waiting."""

    def __init__(self) -> None:
        self.handled = 0

    async def handle(self, message: Any) -> None:
        self.handled += 1
        await trio.lowlevel.checkpoint_if_cancelled()


async def test_what_came_together_is_handled_together_and_then_others_get_their_turn() -> None:
    actor = Brief()
    async with run_actor(actor) as stage:
        await trio.testing.wait_all_tasks_blocked()
        for message in range(5):
            stage.context.mailbox.put_nowait(message)
        seen = []
        while actor.handled < 5:
            await trio.lowlevel.checkpoint()
            seen.append(actor.handled)
        assert set(seen) <= {0, 5}
        assert stage.context.mailbox.handled >= 4


async def test_messages_that_never_cease_leave_others_their_turn() -> None:
    class Talkative(Brief):
        async def handle(self, message: Any) -> None:
            await super().handle(message)
            self.context.mailbox.put_nowait(message)

    actor = Talkative()
    async with run_actor(actor) as stage:
        for message in range(3):
            stage.context.mailbox.put_nowait(message)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert 3 < actor.handled < 100
