"""State in Redis, for any number of workers: `services.detection.state.State` as five scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import trio
from coredis import Redis
from coredis.exceptions import RedisError
from coredis.retry import NoRetryPolicy

from services.detection.scripts import BEAT, GIVE_BACK, LOAD, SAVE, TAKE
from services.detection.state import (
    KEPT_SECS,
    LEASE_SECS,
    Append,
    Beat,
    Kept,
    Replace,
    StateUnavailable,
    Unit,
    Write,
    Written,
)

_ANSWER_SECS = 2
"""Less than a lease: who waits longer has lost it anyway."""
_CONNECTIONS_MAX = 4
_LEASE_MS = int(LEASE_SECS * 1000)

_Argument: TypeAlias = str | bytes | int


class RedisState:
    """Implements `services.detection.state.State`.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        prefix: of all keys.
        password: where the url has none.
    """

    def __init__(self, url: str, *, prefix: str, password: str | None = None) -> None:
        self._prefix = prefix
        self._client: Redis[bytes] = Redis.from_url(
            url,
            verify_version=False,
            retry_policy=NoRetryPolicy(),
            stream_timeout=_ANSWER_SECS,
            connect_timeout=_ANSWER_SECS,
            pool_timeout=_ANSWER_SECS,
            max_connections=_CONNECTIONS_MAX,
            password=password,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have connections while the block runs."""
        problem: Exception | None = None
        async with self._client:
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again below, out of their nursery
                problem = error
        if problem is not None:
            raise problem

    async def beat(self, worker: str, held: Mapping[int, int], *, partitions: int) -> Beat:
        """As in `State`."""
        terms = (_LEASE_MS, KEPT_SECS, partitions)
        workers, still, free = await self._run(BEAT, worker, *terms, *_flat(held))
        return Beat(workers, frozenset(still), frozenset(free))

    async def take(
        self, worker: str, partitions: Sequence[int], *, above: int
    ) -> Mapping[int, int]:
        """As in `State`."""
        terms = (_LEASE_MS, KEPT_SECS, above)
        taken = [int(each) for each in await self._run(TAKE, worker, *terms, *partitions)]
        return dict(zip(taken[::2], taken[1::2], strict=True))

    async def give_back(self, worker: str, held: Mapping[int, int], *, leaving: bool) -> None:
        """As in `State`."""
        await self._run(GIVE_BACK, worker, int(leaving), *_flat(held))

    async def load(self, units: Sequence[Unit]) -> Sequence[Kept | None]:
        """As in `State`."""
        found = await self._run(LOAD, KEPT_SECS, *(_name(unit) for unit in units))
        return [
            None if each is None else Kept(int(each[0]), each[1], tuple(each[3]), each[2])
            for each in found
        ]

    async def save(self, writes: Sequence[Write]) -> Sequence[Written]:
        """As in `State`."""
        arguments: list[_Argument] = [KEPT_SECS]
        for write in writes:
            what, values = _change(write)
            arguments += [_name(write.unit), write.partition, write.token, write.version]
            arguments += [write.seen, what, len(values), *values]
        return [Written(each.decode()) for each in await self._run(SAVE, *arguments)]

    async def _run(self, script: str, *arguments: _Argument) -> Any:
        """What a script returns. The whole text is sent: Redis may have restarted and forgotten."""
        try:
            return await self._client.eval(script, keys=[], args=[self._prefix, *arguments])
        except (RedisError, OSError, TimeoutError, trio.TooSlowError) as error:
            raise StateUnavailable(str(error) or type(error).__name__) from error


def _flat(held: Mapping[int, int]) -> list[int]:
    return [number for pair in held.items() for number in pair]


def _name(unit: Unit) -> str:
    # Neither tenant nor agent has a dot.
    return ".".join(unit)


def _change(write: Write) -> tuple[str, Sequence[bytes]]:
    change = write.change
    if isinstance(change, Append):
        return "A", change.journal
    if isinstance(change, Replace):
        return "R", () if change.snapshot is None else (change.snapshot,)
    return "D", ()
