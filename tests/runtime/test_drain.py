import structlog.testing
import trio
import trio.testing

from actors.runtime import (
    Actor,
    End,
    Supervisor,
)
from tests.runtime.cast import Diary, Source, diarist, running, settle, spec, topology


async def test_consumers_start_first_and_stop_last() -> None:
    diary: Diary = []
    supervisor = Supervisor(
        topology(
            diarist("reader", diary, "correlator"),
            diarist("correlator", diary, "responder", "console"),
            diarist("console", diary),
            diarist("responder", diary, "console"),
        )
    )
    async with running(supervisor):
        assert diary == [
            "console starts",
            "responder starts",
            "correlator starts",
            "reader starts",
        ]
        assert list(supervisor.statistics()) == ["console", "responder", "correlator", "reader"]
        diary.clear()
    assert diary == ["reader stops", "correlator stops", "responder stops", "console stops"]


async def test_a_drain_handles_everything_that_was_told_last_words_included() -> None:
    diary: Diary = []

    class LastWords(Source):
        async def stop(self) -> None:
            await self.context.tell("last")

    supervisor = Supervisor(
        topology(
            spec("source", lambda: LastWords(1, 2, 3), "middle", accepts=()),
            diarist("middle", diary, "sink"),
            diarist("sink", diary, capacity=1),
        )
    )
    async with running(supervisor) as ends:
        pass
    assert ends == [End.DRAINED]
    handled = [line for line in diary if line.startswith("sink handles")]
    assert handled == [f"sink handles {message}" for message in (1, 2, 3, "last")]
    sink = supervisor.statistics()["sink"]
    assert (sink.received, sink.handled, sink.depth, sink.undelivered) == (4, 4, 0, 0)
    assert supervisor.statistics()["middle"].sent == 4


async def test_ready_is_called_when_all_have_started_and_a_second_drain_changes_nothing() -> None:
    diary: Diary = []
    supervisor = Supervisor(topology(diarist("a", diary, "b"), diarist("b", diary)))

    def ready() -> None:
        diary.append("ready")
        supervisor.drain()
        supervisor.drain()

    assert await supervisor.run(ready=ready) is End.DRAINED
    assert diary == ["b starts", "a starts", "ready", "a stops", "b stops"]


async def test_it_finishes_when_all_sources_have() -> None:
    diary: Diary = []
    supervisor = Supervisor(
        topology(
            spec("a", lambda: Source(1, linger=False), "c", accepts=(), restart="transient"),
            spec("b", lambda: Source(2, linger=False), "c", accepts=(), restart="temporary"),
            diarist("c", diary),
        )
    )
    assert await supervisor.run() is End.FINISHED
    assert diary == ["c starts", "c handles 1", "c handles 2", "c stops"]


async def test_a_crash_during_the_drain_costs_one_message_not_the_rest() -> None:
    diary: Diary = []
    supervisor = Supervisor(topology(diarist("a", diary)))
    async with running(supervisor) as ends:
        for message in (1, "crash", 2):
            supervisor.mailbox("a").put_nowait(message)
    assert ends == [End.DRAINED]
    assert diary == [
        "a starts",
        "a handles 1",
        "a stops",
        "a starts",
        "a handles 2",
        "a stops",
    ]


async def test_the_deadline_cancels_who_is_left_and_counts_what_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary: Diary = []
    supervisor = Supervisor(
        topology(spec("source", Source, "sink", accepts=()), diarist("sink", diary), drain_secs=2.0)
    )
    with structlog.testing.capture_logs() as logs:
        async with running(supervisor) as ends:
            await settle(supervisor, "sink", "hang", [1, 2, 3], 4)
    assert ends == [End.OVERDUE]
    assert trio.current_time() == 2.0
    sink = supervisor.statistics()["sink"]
    assert (sink.interrupted, sink.undelivered, sink.items_dropped) == (1, 2, 4 + 3 + 1)
    assert diary == ["sink starts", "sink stops"]
    assert {"event": "drain deadline passed", "actors": ["sink"]}.items() <= logs[0].items()


async def test_a_sender_stuck_at_the_deadline_counts_what_it_could_not_tell(
    autojump_clock: trio.testing.MockClock,
) -> None:
    supervisor = Supervisor(
        topology(
            spec("source", lambda: Source("hang", 1, [2, 3]), "sink", accepts=()),
            diarist("sink", [], capacity=1),
        )
    )
    async with running(supervisor) as ends:
        assert supervisor.statistics()["sink"].senders_blocked == 1
        assert supervisor.statistics()["sink"].in_hand == 1
    assert ends == [End.OVERDUE]
    source = supervisor.statistics()["source"]
    assert (source.sent, source.unsent, source.items_dropped) == (2, 1, 2)


async def test_last_words_have_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    class Chatterbox(Actor):
        async def stop(self) -> None:
            await trio.sleep_forever()

    supervisor = Supervisor(topology(spec("a", Chatterbox), stop_secs=0.5))
    with structlog.testing.capture_logs() as logs:
        async with running(supervisor) as ends:
            pass
    assert ends == [End.DRAINED]
    assert trio.current_time() == 0.5
    assert [log["event"] for log in logs] == ["actor stop cut short"]


async def test_kill_cancels_all_and_leaves_no_time_for_last_words() -> None:
    diary: Diary = []
    supervisor = Supervisor(topology(diarist("a", diary)))
    async with running(supervisor) as ends:
        await settle(supervisor, "a", "hang", 1)
        supervisor.kill()
    assert ends == [End.KILLED]
    assert diary == ["a starts"]
    assert supervisor.statistics()["a"].undelivered == 1


async def test_kill_cuts_last_words_short(autojump_clock: trio.testing.MockClock) -> None:
    class Chatterbox(Actor):
        async def stop(self) -> None:
            await trio.sleep_forever()

    supervisor = Supervisor(topology(spec("a", Chatterbox), stop_secs=100.0, drain_secs=200.0))
    async with running(supervisor) as ends:
        supervisor.drain()
        await trio.sleep(1)
        supervisor.kill()
    assert ends == [End.KILLED]
    assert trio.current_time() == 1.0


async def test_kill_before_the_start_starts_nobody() -> None:
    diary: Diary = []
    supervisor = Supervisor(topology(diarist("a", diary)))
    supervisor.kill()
    assert await supervisor.run() is End.KILLED
    assert diary == []
