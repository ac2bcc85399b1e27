from contextlib import suppress
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.runtime import (
    Actor,
    AskTimeoutError,
    End,
    RestartIntensityExceeded,
    StartError,
    Strategy,
    Supervisor,
    TargetCrashedError,
    TargetStoppedError,
)
from tests.runtime.cast import (
    Boom,
    Diarist,
    Diary,
    Source,
    diarist,
    running,
    settle,
    spec,
    topology,
)


async def test_a_crash_costs_the_message_in_hand_and_a_fresh_instance_takes_over() -> None:
    diary: Diary = []
    supervisor = Supervisor(topology(diarist("a", diary)))
    with structlog.testing.capture_logs() as logs:
        async with running(supervisor):
            await settle(supervisor, "a", 1, "crash", 2)
    assert diary == [
        "a starts",
        "a handles 1",
        "a stops",
        "a starts",
        "a handles 2",
        "a stops",
    ]
    statistics = supervisor.statistics()["a"]
    assert (statistics.received, statistics.handled, statistics.poisoned) == (3, 2, 1)
    assert (statistics.crashes, statistics.restarts) == (1, 1)
    crash = logs[0]
    assert (crash["event"], crash["actor"], crash["message_type"]) == ("actor crashed", "a", "str")
    assert isinstance(crash["exc_info"], Boom)
    assert crash["exc_info"].__traceback__ is not None
    assert {"event": "actor restarted", "actor": "a", "restarts": 1}.items() <= logs[1].items()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", ["middle stops", "middle starts"]),
        (
            "rest_for_one",
            ["reader stops", "middle starts", "reader starts"],
        ),
        (
            "one_for_all",
            ["reader stops", "sink stops", "sink starts", "middle starts", "reader starts"],
        ),
    ],
)
async def test_restart_strategies(strategy: Strategy, expected: list[str]) -> None:
    diary: Diary = []
    supervisor = Supervisor(
        topology(
            diarist("reader", diary, "middle"),
            diarist("middle", diary, "sink"),
            diarist("sink", diary),
            strategy=strategy,
        )
    )
    async with running(supervisor):
        await settle(supervisor, "sink", "hang", "kept")
        diary.clear()
        await settle(supervisor, "middle", "crash")
        if strategy != "one_for_one":
            assert diary.pop(0) == "middle stops"
        told = [line for line in diary if "handles" not in line]
        assert told == expected
        sink = supervisor.statistics()["sink"]
        if strategy == "one_for_all":
            assert (sink.interrupted, sink.restarts) == (1, 1)
            assert "sink handles kept" in diary
        else:
            assert (sink.interrupted, sink.restarts) == (0, 0)
        supervisor.kill()


async def test_a_temporary_sibling_that_is_stopped_is_not_started_again() -> None:
    diary: Diary = []
    supervisor = Supervisor(
        topology(
            diarist("a", diary, restart="temporary"),
            diarist("b", diary, restart="transient"),
            diarist("c", diary),
            strategy="one_for_all",
        )
    )
    async with running(supervisor):
        await settle(supervisor, "c", "crash")
        assert diary.count("a starts") == 1
        assert diary.count("b starts") == 2
        assert supervisor.mailbox("a").put_nowait("anybody there?")
        # ... and one that has gone already stays out of the next restart
        await settle(supervisor, "c", "crash")
        assert diary.count("a stops") == 1
    assert supervisor.statistics()["a"].refused == 1


async def test_a_transient_sibling_that_had_returned_is_not_started_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Diarist):
        async def run(self) -> None:
            await trio.sleep(1)

        async def stop(self) -> None:
            await trio.sleep(0.5)
            self.diary.append("slow stops")

    diary: Diary = []
    supervisor = Supervisor(
        topology(
            spec("slow", lambda: Slow("slow", diary), restart="transient"),
            diarist("b", diary),
            strategy="one_for_all",
        )
    )
    async with running(supervisor):
        await trio.sleep(1.25)
        await supervisor.mailbox("b").put("crash")
        await trio.sleep(1)
        assert diary == ["slow starts", "b starts", "b stops", "slow stops", "b starts"]


async def test_two_siblings_that_crash_at_once_are_restarted_once() -> None:
    diary: Diary = []
    supervisor = Supervisor(
        topology(diarist("a", diary), diarist("b", diary), strategy="one_for_all", max_restarts=1)
    )
    async with running(supervisor) as ends:
        for name in ("a", "b"):
            supervisor.mailbox(name).put_nowait("crash")
        await trio.testing.wait_all_tasks_blocked()
        assert diary.count("a starts") == diary.count("b starts") == 2
    assert ends == [End.DRAINED]


async def test_a_temporary_actor_that_crashes_is_gone_with_its_mailbox() -> None:
    supervisor = Supervisor(
        topology(spec("source", Source, "a", accepts=()), diarist("a", [], restart="temporary"))
    )
    async with running(supervisor):
        await settle(supervisor, "a", "crash")
        with pytest.raises(TargetStoppedError):
            await supervisor.mailbox("a").ask(1, within_secs=1)


async def test_what_waits_in_the_mailbox_of_a_gone_actor_is_undelivered() -> None:
    supervisor = Supervisor(
        topology(
            spec("source", Source, "a", accepts=()),
            diarist("a", [], restart="temporary", capacity=2),
        )
    )
    for message in ("crash", 1):
        supervisor.mailbox("a").put_nowait(message)
    async with running(supervisor), trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.mailbox("a").put, 2)
    statistics = supervisor.statistics()["a"]
    assert (statistics.received, statistics.poisoned) == (2, 1)
    assert (statistics.undelivered, statistics.refused) == (1, 1)


@pytest.mark.parametrize(
    ("restart", "starts"), [("permanent", 3), ("transient", 1), ("temporary", 1)]
)
async def test_who_returns_is_started_again_only_if_permanent(restart: Any, starts: int) -> None:
    diary: Diary = []

    class Quitter(Diarist):
        async def run(self) -> None:
            if diary.count("quitter starts") == 3:
                await self.context.stopping.wait()

    supervisor = Supervisor(
        topology(
            spec("quitter", lambda: Quitter("quitter", diary), restart=restart),
            spec("other", Source, accepts=()),
        )
    )
    async with running(supervisor):
        assert diary.count("quitter starts") == starts


async def test_restarts_beyond_the_intensity_stop_all_and_leave_with_the_true_error() -> None:
    diary: Diary = []
    supervisor = Supervisor(topology(diarist("a", diary), diarist("b", diary), max_restarts=1))
    for message in ("crash", "group", 1):
        supervisor.mailbox("a").put_nowait(message)
    with pytest.raises(RestartIntensityExceeded, match="allows 1 restarts in 30 s") as caught:
        await supervisor.run()
    assert caught.value.actor == "a"
    cause = caught.value.__cause__
    assert isinstance(cause, Boom)
    assert cause.args == ("in a nursery",)
    assert "b stops" in diary
    assert supervisor.statistics()["a"].undelivered == 1


async def test_returning_too_often_has_no_cause() -> None:
    supervisor = Supervisor(
        topology(spec("a", lambda: Source(linger=False), accepts=()), max_restarts=0)
    )
    with pytest.raises(RestartIntensityExceeded) as caught:
        await supervisor.run()
    assert caught.value.__cause__ is None


async def test_restarts_older_than_the_window_are_forgiven(
    autojump_clock: trio.testing.MockClock,
) -> None:
    supervisor = Supervisor(topology(diarist("a", []), max_restarts=1, within_secs=10.0))
    async with running(supervisor) as ends:
        for _ in range(4):
            await settle(supervisor, "a", "crash")
            await trio.sleep(10.5)
    assert ends == [End.DRAINED]
    assert supervisor.statistics()["a"].restarts == 4


async def test_a_restart_as_old_as_the_window_still_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def crash_twice() -> None:
        for _ in range(2):
            supervisor.mailbox("a").put_nowait("crash")
            await trio.sleep(10)

    supervisor = Supervisor(topology(diarist("a", []), max_restarts=1, within_secs=10.0))
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_twice)
            await supervisor.run()
    assert trio.current_time() == 10.0


class Fragile(Diarist):
    """Fails its first starts."""

    def __init__(self, diary: Diary, failing: set[int]) -> None:
        super().__init__("fragile", diary)
        self.failing = failing

    async def start(self) -> None:
        await super().start()
        if self.diary.count("fragile starts") in self.failing:
            raise Boom("no ring")


async def test_a_first_start_that_fails_stops_all_with_the_true_error() -> None:
    diary: Diary = []
    supervisor = Supervisor(
        topology(
            diarist("late", diary, "fragile"),
            spec("fragile", lambda: Fragile(diary, {1}), "early"),
            diarist("early", diary),
        )
    )
    with pytest.raises(StartError, match="actor fragile does not start") as caught:
        await supervisor.run(ready=lambda: diary.append("ready"))
    assert isinstance(caught.value.__cause__, Boom)
    assert diary == ["early starts", "fragile starts", "early stops"]


async def test_a_later_start_that_fails_is_one_more_crash() -> None:
    diary: Diary = []
    supervisor = Supervisor(topology(spec("fragile", lambda: Fragile(diary, {2, 3}))))
    async with running(supervisor):
        await settle(supervisor, "fragile", "crash", "kept")
    statistics = supervisor.statistics()["fragile"]
    assert (statistics.crashes, statistics.restarts, statistics.handled) == (3, 3, 1)
    assert diary[-2:] == ["fragile handles kept", "fragile stops"]


async def test_a_crash_in_last_words_is_counted_and_decides_nothing() -> None:
    class Stumbler(Actor):
        async def stop(self) -> None:
            raise Boom

    supervisor = Supervisor(topology(spec("a", Stumbler), max_restarts=0))
    async with running(supervisor) as ends:
        pass
    assert ends == [End.DRAINED]
    assert supervisor.statistics()["a"].crashes == 1


async def test_a_run_of_ones_own_leaves_no_message_in_hand() -> None:
    class Own(Actor):
        async def run(self) -> None:
            await self.context.mailbox.take()
            await self.context.stopping.wait()

    supervisor = Supervisor(topology(spec("a", Own)))
    async with running(supervisor):
        await settle(supervisor, "a", 1)
    assert supervisor.statistics()["a"].handled == 1


@settings(deadline=None)
@given(
    messages=st.lists(st.sampled_from([1, 2, "crash", "group"]), max_size=12),
    capacity=st.integers(1, 3),
    overflow=st.sampled_from(["block", "drop_newest", "drop_oldest"]),
    restart=st.sampled_from(["permanent", "transient", "temporary"]),
    strategy=st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
    max_restarts=st.sampled_from([0, 2, 100]),
)
async def test_no_message_vanishes_uncounted(
    *,
    messages: list[Any],
    capacity: int,
    overflow: Any,
    restart: Any,
    strategy: Any,
    max_restarts: int,
) -> None:
    supervisor = Supervisor(
        topology(
            spec("source", lambda: Source(*messages, linger=False), "a", restart="transient"),
            diarist("a", [], "b", capacity=capacity, overflow=overflow, restart=restart),
            diarist("b", [], capacity=capacity, overflow=overflow, restart=restart),
            strategy=strategy,
            max_restarts=max_restarts,
        )
    )
    with structlog.testing.capture_logs(), suppress(RestartIntensityExceeded):
        await supervisor.run()
    actors = supervisor.statistics()
    for teller, listener in (("source", "a"), ("a", "b")):
        told, heard = actors[teller], actors[listener]
        assert told.sent == heard.received + heard.dropped_newest + heard.refused
        assert (heard.depth, heard.in_hand, heard.senders_blocked) == (0, 0, 0)
        assert heard.received == (
            heard.handled
            + heard.poisoned
            + heard.interrupted
            + heard.dropped_oldest
            + heard.undelivered
        )


async def test_the_reply_is_what_handle_returns() -> None:
    supervisor = Supervisor(topology(diarist("a", [])))
    async with running(supervisor):
        assert await supervisor.mailbox("a").ask("hello", within_secs=1) == "hello!"


async def test_asking_one_who_crashes_at_it_is_an_error_at_once() -> None:
    supervisor = Supervisor(topology(diarist("a", [])))
    async with running(supervisor):
        with pytest.raises(TargetCrashedError, match="a: poisoned"):
            await supervisor.mailbox("a").ask("crash", within_secs=1)
        assert await supervisor.mailbox("a").ask("again", within_secs=1) == "again!"


async def test_asking_one_who_is_busy_times_out(autojump_clock: trio.testing.MockClock) -> None:
    supervisor = Supervisor(topology(diarist("a", [])))
    async with running(supervisor):
        with pytest.raises(AskTimeoutError):
            await supervisor.mailbox("a").ask("hang", within_secs=1)
        supervisor.kill()
