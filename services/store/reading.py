"""A store opened by a command to look something up, and closed again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from services.store import open_store
from services.store.interface import Store, StoreError
from services.store.settings import StoreSettings
from transport import crossing

T = TypeVar("T")
_CLOSE_SECS = 2.0


def read(settings: StoreSettings, work: Callable[[Store], Awaitable[T]]) -> T:
    """Open the store, do the work, close it; from outside of any event loop.

    Raises:
        StoreError: there is no such store, it cannot be opened, or the work's own.
    """
    found = trio.run(_read, settings, work)
    if isinstance(found, StoreError):
        raise found
    return found


async def _read(settings: StoreSettings, work: Callable[[Store], Awaitable[T]]) -> T | StoreError:
    # The error is returned, for what leaves the loop comes out in a group.
    path = settings.sqlite_path
    if path is not None and not path.exists():
        await trio.lowlevel.checkpoint()
        return StoreError(f"{path}: there is no such store; name it with store.url or --config")
    store = open_store(settings)
    async with crossing.open_loop():
        try:
            await store.open()
            return await work(store)
        except StoreError as error:
            return error
        finally:
            with trio.move_on_after(_CLOSE_SECS, shield=True):
                await store.close()
