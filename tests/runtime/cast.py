"""The cast of these tests: actors that keep a diary, and a way to run a supervisor."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from actors.runtime import (
    Actor,
    ChildSpec,
    End,
    Supervisor,
    Topology,
)

Diary = list[str]


class Boom(Exception):  # noqa: N818 -- a test's error
    pass


class Diarist(Actor):
    """Writes its life into a diary; messages tell it what to do."""

    accepts = (object,)
    emits = (object,)

    def __init__(self, name: str, diary: Diary) -> None:
        self.name = name
        self.diary = diary

    async def start(self) -> None:
        await super().start()
        self.diary.append(f"{self.name} starts")

    async def handle(self, message: Any) -> Any:
        if message == "crash":
            raise Boom(self.name)
        if message == "hang":
            await trio.sleep_forever()
        if message == "group":
            async with trio.open_nursery():
                raise Boom("in a nursery")
        self.diary.append(f"{self.name} handles {message}")
        await self.context.tell(message)
        return f"{message}!"

    async def stop(self) -> None:
        await super().stop()
        self.diary.append(f"{self.name} stops")


class Source(Actor):
    """Tells what it was given, then waits for the drain."""

    emits = (object,)

    def __init__(self, *messages: Any, linger: bool = True) -> None:
        self.messages = messages
        self.linger = linger

    async def run(self) -> None:
        for message in self.messages:
            await self.context.tell(message)
        if self.linger:
            await self.context.stopping.wait()


def spec(
    name: str, factory: Callable[[], Actor], *to: str, accepts: Any = (object,), **other: Any
) -> ChildSpec:
    return ChildSpec(name=name, factory=factory, accepts=accepts, emits=(object,), to=to, **other)


def diarist(name: str, diary: Diary, *to: str, **other: Any) -> ChildSpec:
    return spec(name, lambda: Diarist(name, diary), *to, **other)


def topology(*children: ChildSpec, **other: Any) -> Topology:
    return Topology(name="test", children=children, **other)


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[list[End]]:
    """The supervisor beside the body; drained at the end. Its end is appended to the list."""
    ends: list[End] = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            ends.append(await supervisor.run())

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        yield ends
        supervisor.drain()


async def settle(supervisor: Supervisor, name: str, *messages: Any) -> None:
    for message in messages:
        await supervisor.mailbox(name).put(message)
    await trio.testing.wait_all_tasks_blocked()
