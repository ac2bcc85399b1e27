"""The crossing between trio and asyncio: the only door to asyncio libraries.

A crossing costs about 115 µs, so cross once for a piece of work, not once for each await in it.
What is called runs as an asyncio task: it awaits what asyncio libraries give it, nothing of trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import trio_asyncio

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


@asynccontextmanager
async def open_loop() -> AsyncIterator[None]:
    """An asyncio loop on top of trio: `call` works inside. One is enough for a program.

    An error in the body leaves as it is, not in the groups of the loop's own nurseries.
    """
    problem: Exception | None = None
    async with trio_asyncio.open_loop():
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below
            problem = error
    if problem is not None:
        raise problem


async def call(function: Callable[[*Args], Awaitable[Result]], *args: *Args) -> Result:
    """The result of an asyncio function. Cancelled, it is cancelled, and waited for.

    Raises:
        RuntimeError: there is no `open_loop` around the caller.
    """
    if trio_asyncio.current_loop.get() is None:
        raise RuntimeError("transport.crossing.call needs `async with open_loop()` around it")
    result: Result = await trio_asyncio.aio_as_trio(function)(*args)
    return result
