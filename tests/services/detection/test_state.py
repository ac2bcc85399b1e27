"""What every state does, shown of each."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from services.detection.memory_state import MemoryState
from services.detection.redis_state import RedisState
from services.detection.state import (
    KEPT_SECS,
    LEASE_SECS,
    Append,
    Beat,
    Drop,
    Kept,
    Replace,
    State,
    StateUnavailable,
    Unit,
    Write,
    Written,
)
from tests.services.detection.redis_server import RedisServer, redis

ONE, TWO = Unit("acme", "web-1", "boot"), Unit("acme", "web-2", "")
P = 4


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], State]]:
    """Makes clients of one state."""
    if request.param == "memory":
        shared = MemoryState()
        yield lambda: shared
        return
    with redis(tmp_path / "redis") as server:
        server.say("SET", "test:born", "0")
        yield lambda: RedisState(server.url, prefix="test:")


@asynccontextmanager
async def opened(make: Callable[[], State]) -> AsyncIterator[State]:
    state = make()
    async with state.opened():
        yield state


async def token_of(state: State, worker: str, partition: int = 0) -> int:
    return (await state.take(worker, [partition], above=0))[partition]


def append(token: int, version: int, *journal: bytes, unit: Unit = ONE) -> Write:
    return Write(unit, 0, token, version, Append(journal), seen=b"seen-%d" % version)


def whole(token: int, version: int, snapshot: bytes | None, *, unit: Unit = ONE) -> Write:
    return Write(unit, 0, token, version, Replace(snapshot), seen=b"whole")


async def test_what_was_appended_is_loaded_in_order(make: Callable[[], State]) -> None:
    async with opened(make) as state:
        assert await state.load([ONE, TWO]) == [None, None]
        token = await token_of(state, "a")
        writes = [append(token, 0, b"1", b"\x00\xff"), append(token, 0, b"z", unit=TWO)]
        assert await state.save(writes) == [Written.DONE, Written.DONE]
        assert await state.save([append(token, 1, b"3")]) == [Written.DONE]
        assert await state.load([TWO, ONE]) == [
            Kept(1, None, (b"z",), b"seen-0"),
            Kept(2, None, (b"1", b"\x00\xff", b"3"), b"seen-1"),
        ]


async def test_a_snapshot_takes_the_place_of_the_journal(make: Callable[[], State]) -> None:
    async with opened(make) as state:
        token = await token_of(state, "a")
        await state.save([append(token, 0, b"1"), whole(token, 1, b"all"), append(token, 2, b"2")])
        assert await state.load([ONE]) == [Kept(3, b"all", (b"2",), b"seen-2")]
        await state.save([whole(token, 3, None)])
        assert await state.load([ONE]) == [Kept(4, None, (), b"whole")]
        assert await state.save([append(token, 4, b"3")]) == [Written.DONE]


async def test_what_does_not_fit_what_is_there_is_missing(make: Callable[[], State]) -> None:
    async with opened(make) as state:
        token = await token_of(state, "a")
        assert await state.save([append(token, 5, b"1")]) == [Written.MISSING]
        assert await state.load([ONE]) == [None]
        assert await state.save([whole(token, 5, b"all")]) == [Written.DONE]
        assert await state.save([append(token, 5, b"1")]) == [Written.MISSING]
        assert await state.save([append(token, 6, b"2")]) == [Written.DONE]
        assert await state.load([ONE]) == [Kept(7, b"all", (b"2",), b"seen-6")]


async def test_what_is_dropped_is_gone(make: Callable[[], State]) -> None:
    async with opened(make) as state:
        token = await token_of(state, "a")
        await state.save([append(token, 0, b"1")])
        assert await state.save([Write(ONE, 0, token, 1, Drop())]) == [Written.DONE]
        assert await state.load([ONE]) == [None]
        assert await state.save([append(token, 0, b"1")]) == [Written.DONE]


async def test_a_write_under_an_older_token_is_refused(make: Callable[[], State]) -> None:
    async with opened(make) as state:
        old = await token_of(state, "a")
        await state.save([append(old, 0, b"1")])
        await state.give_back("a", {0: old}, leaving=False)
        new = await token_of(state, "b")
        assert new > old
        refused = [append(old, 1, b"2"), whole(old, 1, b"all"), Write(ONE, 0, old, 1, Drop())]
        assert await state.save(refused) == [Written.FENCED] * 3
        assert await state.save([append(new, 1, b"3")]) == [Written.DONE]
        assert await state.load([ONE]) == [Kept(2, None, (b"1", b"3"), b"seen-1")]


async def test_nobody_takes_what_another_holds(make: Callable[[], State]) -> None:
    async with opened(make) as state:
        mine = await state.take("a", [0, 1], above=0)
        theirs = await state.take("b", [1, 2], above=0)
        assert (set(mine), set(theirs)) == ({0, 1}, {2})
        beat = await state.beat("a", mine, partitions=P)
        assert beat == Beat(1, frozenset((0, 1)), frozenset((3,)))
        assert (await state.beat("b", theirs, partitions=P)).workers == 2
        await state.give_back("b", {0: mine[0], **theirs}, leaving=True)
        beat = await state.beat("a", mine, partitions=P)
        assert beat == Beat(1, frozenset((0, 1)), frozenset((2, 3)))


async def test_ones_own_is_taken_again_under_a_higher_token(make: Callable[[], State]) -> None:
    async with opened(make) as state:
        first = await token_of(state, "a")
        second = await token_of(state, "a")
        assert second > first
        far = second + 10**9
        assert await state.take("a", [0], above=far) == {0: far + 1}
        assert (await state.beat("a", {0: first}, partitions=P)).held == frozenset()


async def test_who_is_not_heard_of_loses_its_partitions(make: Callable[[], State]) -> None:
    async with opened(make) as state:
        held = await state.take("a", [0, 1], above=0)
        await state.beat("a", held, partitions=P)
        free: frozenset[int] = frozenset()
        with trio.fail_after(10 * LEASE_SECS):
            while not free >= {0, 1}:
                beat = await state.beat("b", {}, partitions=P)
                free = beat.free
                await trio.sleep(0.1)
        assert beat.workers == 1
        taken = await state.take("b", [0], above=0)
        assert (await state.beat("a", held, partitions=P)).held == {1}, "nobody has taken that one"
        assert (await state.beat("b", taken, partitions=P)).held == {0}


async def test_the_memory_forgets_what_is_not_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    state = MemoryState(size_max_bytes=100)
    token = await token_of(state, "a")
    await state.save([whole(token, 0, b"x" * 60), whole(token, 0, b"y" * 31, unit=TWO)])
    assert [each is None for each in await state.load([ONE, TWO])] == [True, False]
    await trio.sleep(KEPT_SECS + 1)
    assert await state.load([TWO]) == [None]


async def test_every_key_expires(redis_server: RedisServer) -> None:
    state = RedisState(redis_server.url, prefix="test:")
    async with state.opened():
        token = await token_of(state, "a")
        await state.save([append(token, 0, b"1")])
        await state.beat("a", {0: token}, partitions=P)
        await state.load([ONE])
        keys = redis_server.say("KEYS", "*").split()
        assert len(keys) == 6
        assert all(key.startswith("test:") for key in keys)
        assert all(0 < int(redis_server.say("TTL", key)) <= KEPT_SECS for key in keys)


async def test_a_redis_that_comes_back_empty_misses_and_takes_it_again(
    redis_server: RedisServer,
) -> None:
    state = RedisState(redis_server.url, prefix="test:")
    async with state.opened():
        held: Mapping[int, int] = await state.take("a", [0], above=0)
        token = held[0]
        await state.save([append(token, 0, b"1")])
        redis_server.kill()
        with pytest.raises(StateUnavailable):
            await state.save([append(token, 1, b"2")])
        redis_server.start()
        beat = await state.beat("b", {}, partitions=P)
        assert beat.free == frozenset(), "others may not have been heard of"
        assert await state.save([append(token, 1, b"2")]) == [Written.MISSING]
        assert await state.save([whole(token, 1, b"all")]) == [Written.DONE]
        assert (await state.beat("a", held, partitions=P)).held == {0}
        lower = {0: token - 1}
        assert (await state.beat("zombie", lower, partitions=P)).held == frozenset()


async def test_a_redis_that_is_away_or_refuses_is_unavailable(redis_server: RedisServer) -> None:
    state = RedisState(redis_server.url, prefix="test:")
    async with state.opened():
        token = await token_of(state, "a")
        redis_server.say("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StateUnavailable, match="OOM"):
            await state.save([append(token, 0, b"1")])
    redis_server.kill()
    away = RedisState(redis_server.url, prefix="test:")
    async with away.opened():
        for _ in range(2):
            with pytest.raises(StateUnavailable):
                await away.load([ONE])
