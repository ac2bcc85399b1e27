import pytest
import structlog.testing
import trio
import trio.testing

from actors.runtime import (
    Actor,
    End,
    Supervisor,
)
from tests.runtime.cast import Boom, Diary, diarist, running, settle, spec, topology


class Careless(Actor):
    """Raises while it is being cancelled."""

    async def run(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("while being cancelled")


class Mixer(Actor):
    """Raises a group of an error and a Cancelled."""

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise Boom("beside a Cancelled")


@pytest.mark.parametrize("actor", [Careless, Mixer])
async def test_an_error_that_meets_a_siblings_restart_is_logged_and_the_restart_goes_on(
    actor: type[Actor],
) -> None:
    supervisor = Supervisor(
        topology(spec("a", actor), diarist("b", []), strategy="one_for_all", max_restarts=1)
    )
    with structlog.testing.capture_logs() as logs:
        async with running(supervisor) as ends:
            await settle(supervisor, "b", "crash")
            assert supervisor.statistics()["a"].restarts == 1
            supervisor.kill()
    assert ends == [End.KILLED]
    crashes = [log for log in logs if log["event"] == "actor crashed" and log["actor"] == "a"]
    assert all(isinstance(crash["exc_info"], Boom) for crash in crashes)
    assert supervisor.statistics()["a"].crashes == len(crashes) == 2


@pytest.mark.parametrize("actor", [Careless, Mixer])
async def test_an_error_that_meets_a_cancellation_from_outside_leaves_with_it(
    actor: type[Actor],
) -> None:
    supervisor = Supervisor(topology(spec("a", actor)))
    passed = False
    with pytest.RaisesGroup(Boom, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            finally:
                passed = True
    assert passed
    assert supervisor.statistics()["a"].crashes == 1


@pytest.mark.parametrize("actor", [Careless, Mixer])
async def test_the_cancellation_itself_is_not_swallowed(actor: type[Actor]) -> None:
    supervisor = Supervisor(topology(spec("a", actor)))
    reached = False
    with trio.CancelScope() as scope:
        try:
            async with trio.open_nursery() as nursery:

                async def cancel() -> None:
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()

                nursery.start_soon(cancel)
                await supervisor.run()
        except* Boom:
            pass
        await trio.lowlevel.checkpoint()
        reached = True
    assert not reached
    assert scope.cancelled_caught


async def test_a_cancelled_supervisor_lets_its_actors_say_their_last_words() -> None:
    diary: Diary = []
    supervisor = Supervisor(topology(diarist("a", diary)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert diary == ["a starts", "a stops"]


async def test_what_is_not_an_exception_is_no_crash() -> None:
    class Exiting(Actor):
        async def run(self) -> None:
            raise SystemExit(3)

    supervisor = Supervisor(topology(spec("a", Exiting)))
    with pytest.RaisesGroup(SystemExit):
        await supervisor.run()
    assert supervisor.statistics()["a"].crashes == 0
