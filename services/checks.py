"""``--check``: whether broker, store and state can be used, as a table and an exit code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from actors.runtime import Topology
from services.detection.reach import Reach
from services.detection.state import StateUnavailable
from services.parts import Resources
from services.store.interface import StoreError
from services.store.migrations import outlook
from transport import crossing
from transport.credentials import without_secrets
from transport.errors import TransportError

_WITHIN_SECS = 5.0


async def check(resources: Resources, topology: Topology) -> tuple[str, bool]:
    """A table for people, and whether the service can run."""
    rows = [("topology", True, f"{len(topology.children)} actors")]
    async with crossing.open_loop():
        rows.append(await _row("broker", lambda: _broker(resources)))
        if resources.gate is not None:
            rows.append(await _row("store", lambda: _store(resources)))
        rows += [await _row("state", partial(_state, reach)) for reach in resources.reaches]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'ok  ' if good else 'FAIL'}  {name:{width}}  {text}" for name, good, text in rows]
    return "\n".join(lines) + "\n", all(good for _, good, _ in rows)


async def _row(name: str, test: Callable[[], Awaitable[str]]) -> tuple[str, bool, str]:
    await trio.lowlevel.checkpoint()
    try:
        with trio.fail_after(_WITHIN_SECS):
            return name, True, await test()
    except (TransportError, StoreError, StateUnavailable) as error:
        return name, False, str(error)
    except trio.TooSlowError:
        return name, False, f"no answer within {_WITHIN_SECS:g} s; does it run, and where?"


async def _broker(resources: Resources) -> str:
    session = resources.session
    failure: list[TransportError] = []
    async with trio.open_nursery() as nursery:

        async def stay_connected() -> None:
            await trio.lowlevel.checkpoint()
            try:
                await session.run()
            except TransportError as error:
                failure.append(error)
                nursery.cancel_scope.cancel()

        nursery.start_soon(stay_connected)
        await session.wait_connected()
        nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]
    return f"connected to {without_secrets(resources.settings.broker.url)}"


async def _state(reach: Reach) -> str:
    async with reach.state.opened():
        await reach.state.load([])
    return f"reached {reach.shown}" if reach.shown != "memory:" else "kept in memory"


async def _store(resources: Resources) -> str:
    path = resources.settings.store.sqlite_path
    if path is not None and not path.exists():
        await trio.lowlevel.checkpoint()
        return f"{path} is made at the first start"
    store = resources.store().store
    try:
        found = await store.schema_version()
    finally:
        with trio.move_on_after(1, shield=True):
            await store.close()
    return f"reached; {outlook(found, where='store')}"
