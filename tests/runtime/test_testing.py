from typing import Any

import pytest
import trio
import trio.testing

from actors.runtime import Actor, AskTimeoutError
from actors.runtime.testing import Probe, run_actor


class Doubler(Actor):
    accepts = (int,)
    emits = (int, str)

    async def handle(self, message: int) -> str:
        if message < 0:
            raise ValueError("negative") from KeyError("cause")
        await self.context.tell(message * 2)
        return "done"

    async def stop(self) -> None:
        await self.context.tell("bye")


class Asker(Actor):
    emits = (int,)

    async def run(self) -> None:
        self.reply = await self.context.ask(1, within_secs=1)
        self.seen = self.context.statistics()
        await self.context.stopping.wait()


class Stubborn(Actor):
    async def run(self) -> None:
        await trio.sleep_forever()


async def test_a_stage_collects_what_the_actor_tells_last_words_included() -> None:
    async with run_actor(Doubler()) as stage:
        await stage.tell(1)
        await stage.tell(2)
        assert stage.told == [2, 4]
        assert await stage.ask(3) == "done"
    assert stage.told == [2, 4, 6, "bye"]
    assert stage.context.sent == 4
    assert stage.context.mailbox.handled == 3


async def test_a_stage_can_be_drained_within_the_body() -> None:
    async with run_actor(Doubler()) as stage:
        await stage.drain()
        assert stage.told == ["bye"]


async def test_a_stage_answers_the_actor() -> None:
    actor = Asker()
    async with run_actor(actor, answer=lambda message: message + 1) as stage:
        await trio.testing.wait_all_tasks_blocked()
        assert (actor.reply, actor.seen) == (2, {})
        assert stage.told == []


async def test_an_actor_that_is_alive_at_the_end_fails_the_test(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(AssertionError, match=r"Stubborn is alive after 1\.0 s"):
        async with run_actor(Stubborn()):
            pass


async def test_the_actors_error_leaves_as_itself() -> None:
    with pytest.raises(ValueError, match="negative") as caught:
        async with run_actor(Doubler()) as stage:
            await stage.tell(-1)
    assert isinstance(caught.value.__cause__, KeyError)


async def test_the_bodys_error_leaves_as_itself() -> None:
    with pytest.raises(LookupError):
        async with run_actor(Doubler()):
            raise LookupError


async def test_a_stage_gives_up_asking(autojump_clock: trio.testing.MockClock) -> None:
    async with run_actor(Probe([])) as stage:
        await stage.drain()
        assert stage.ended.is_set()
    with pytest.raises(AskTimeoutError):
        async with run_actor(Stubborn()) as stage:
            await stage.ask(1)


async def test_a_probe_records() -> None:
    seen: list[Any] = []
    async with run_actor(Probe(seen)) as stage:
        await stage.tell([1])
        await stage.tell("two")
    assert seen == [[1], "two"]
