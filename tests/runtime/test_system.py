import signal
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing

from actors.runtime import (
    Actor,
    ChildSpec,
    ExitReason,
    RestartIntensityExceeded,
    StartError,
    Topology,
    run_topology,
)
from actors.runtime.testing import Probe


class Feed(Actor):
    """Tells what it was given, then waits for the drain."""

    emits = (list,)

    def __init__(self, *messages: list[int]) -> None:
        self.messages = messages

    async def run(self) -> None:
        for message in self.messages:
            await self.context.tell(message)
        await self.context.stopping.wait()


class Stubborn(Actor):
    """Hears no request to stop."""

    async def run(self) -> None:
        await trio.sleep_forever()


class Broken(Actor):
    async def run(self) -> None:
        raise OSError("the ring is gone")


class Unstartable(Actor):
    async def start(self) -> None:
        raise PermissionError("no ring for you")


def alone(actor: type[Actor], **other: Any) -> Topology:
    return Topology(name="test", children=(ChildSpec(name="a", factory=actor),), **other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_drains(number: signal.Signals) -> None:
    seen: list[Any] = []
    topology = Topology(
        name="test",
        children=(
            ChildSpec(name="feed", factory=lambda: Feed([1], [2]), emits=(list,), to=("probe",)),
            ChildSpec(name="probe", factory=lambda: Probe(seen), accepts=(object,)),
        ),
    )
    with structlog.testing.capture_logs() as logs:
        outcome = await run_topology(topology, ready=lambda: signal.raise_signal(number))
    assert seen == [[1], [2]]
    assert outcome.reason is ExitReason.DRAINED
    assert outcome.reason.value == 0
    assert outcome.error is None
    assert outcome.undelivered == 0
    assert outcome.statistics["probe"].handled == 2
    assert logs == [{"event": "draining", "signal": number.name, "log_level": "info"}]


async def test_a_second_signal_leaves_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:

        async def interrupt_twice() -> None:
            for _ in range(2):
                await trio.sleep(1)
                signal.raise_signal(signal.SIGINT)

        nursery.start_soon(interrupt_twice)
        outcome = await run_topology(alone(Stubborn))
    assert outcome.reason is ExitReason.KILLED
    assert outcome.reason.value == 130
    assert trio.current_time() == 2.0


async def test_the_deadline_shows_in_the_exit_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcome = await run_topology(
        alone(Stubborn, drain_secs=3.0), ready=lambda: signal.raise_signal(signal.SIGTERM)
    )
    assert outcome.reason is ExitReason.OVERDUE
    assert trio.current_time() == 3.0


async def test_an_escalation_shows_its_error_and_the_statistics() -> None:
    outcome = await run_topology(alone(Broken, max_restarts=2))
    assert outcome.reason is ExitReason.ESCALATED
    assert isinstance(outcome.error, RestartIntensityExceeded)
    assert isinstance(outcome.error.__cause__, OSError)
    assert outcome.statistics["a"].crashes == 3


async def test_a_failed_start_shows_its_error() -> None:
    outcome = await run_topology(alone(Unstartable))
    assert outcome.reason is ExitReason.START_FAILED
    assert isinstance(outcome.error, StartError)
    assert isinstance(outcome.error.__cause__, PermissionError)


async def test_cancelled_it_cancels_the_actors(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await run_topology(alone(Stubborn))
    assert scope.cancelled_caught
