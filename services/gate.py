"""The gate to the store: opens it, and waits where it is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio

from services.store.interface import Store, StoreUnavailable

T = TypeVar("T")
log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_PAUSE_FIRST_SECS = 0.2
_PAUSE_MAX_SECS = 5.0


class Gate:
    """A store that may be away for a while: whoever calls waits, and nobody crashes.

    Args:
        store: not yet opened.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._opened = False
        self._opening = trio.Lock()
        self.available = True
        """Whether the last call reached it."""
        self.waits = 0
        """Calls that had to be made again."""

    async def call(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """The result of ``work(store)``, once the store can be reached.

        Cancelled, the work was done wholly or not at all.

        Raises:
            StoreError: any but `StoreUnavailable`.
        """
        pause_secs = _PAUSE_FIRST_SECS
        while True:
            try:
                await self._open()
                result = await work(self.store)
            except StoreUnavailable as error:
                if self.available:
                    log.warning("store is away; acks wait for it", why=str(error))
                self.available = False
                self.waits += 1
            else:
                if not self.available:
                    log.info("store is back")
                self.available = True
                return result
            await trio.sleep(pause_secs)
            pause_secs = min(2 * pause_secs, _PAUSE_MAX_SECS)

    async def close(self) -> None:
        """Let go of the store."""
        await self.store.close()

    async def _open(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._opened:
            return
        async with self._opening:
            if not self._opened:
                await self.store.open()
                self._opened = True
