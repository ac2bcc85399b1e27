"""History as an async iterator, the same for both stores."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from services.store.history import Place, Wanted, read_on
from services.store.interface import Chunk
from services.store.steps import Steps
from services.store.tables import Dialect

Read: TypeAlias = Callable[[Steps[Any]], Awaitable[Any]]


class Chunks:
    """The chunks of a history. Holds no connection: it may be left anywhere, and needs no closing.

    Args:
        read: takes steps that only read, over a connection of their own.
        wanted: which telemetry.
        dialect: the database's.
    """

    def __init__(self, read: Read, wanted: Wanted, *, dialect: Dialect) -> None:
        self._read = read
        self._wanted = wanted
        self._dialect = dialect
        self._place = Place()
        self._waiting: deque[Chunk] = deque()

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> Chunk:
        """The next chunk; cancelled, it is still the next."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._place.ended:
                raise StopAsyncIteration
            steps = read_on(self._wanted, self._place, dialect=self._dialect)
            chunks, self._place = await self._read(steps)
            self._waiting.extend(chunks)
        return self._waiting.popleft()
