"""The crossing between trio and asyncio: the only door to asyncio libraries.

A crossing costs about 115 µs, so cross once for a piece of work, not once for each await in it.
What is called runs as an asyncio task: it awaits what asyncio libraries give it, nothing of trio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import structlog
import trio_asyncio

Args = TypeVarTuple("Args")
Result = TypeVar("Result")
log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@asynccontextmanager
async def open_loop() -> AsyncIterator[None]:
    """An asyncio loop on top of trio: `call` works inside. One is enough for a program.

    An error in the body leaves as it is, not in the groups of the loop's own nurseries.
    """
    problem: Exception | None = None
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_note)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below
            problem = error
    if problem is not None:
        raise problem


def _note(loop: Any, context: dict[str, Any]) -> None:
    """Log an error that a library's future kept to itself; any other ends the loop, as is usual.

    asyncpg forgets the future of a COPY when the server dies between two statements. Whoever waited
    has got an error already; the program need not end for it. A *task* that dies is another matter.
    """
    future = context.get("future")
    if isinstance(future, asyncio.Future) and not isinstance(future, asyncio.Task):
        log.warning("a future's error was never asked for", error=repr(context.get("exception")))
        return
    loop.default_exception_handler(context)


async def call(function: Callable[[*Args], Awaitable[Result]], *args: *Args) -> Result:
    """The result of an asyncio function. Cancelled, it is cancelled, and waited for.

    Raises:
        RuntimeError: there is no `open_loop` around the caller.
    """
    if trio_asyncio.current_loop.get() is None:
        raise RuntimeError("transport.crossing.call needs `async with open_loop()` around it")
    result: Result = await trio_asyncio.aio_as_trio(function)(*args)
    return result
