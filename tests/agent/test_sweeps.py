from functools import partial

import pytest
import trio
import trio.testing

from actors.agent.sweeps import Sweeps, Turn


async def take(sweeps: Sweeps, ring: str, taken: list[tuple[str, Turn]], *, secs: float) -> None:
    """A reader that needs so long for each turn."""
    while (turn := await sweeps.next(ring)) is not None:
        await trio.sleep(secs)
        taken.append((ring, turn))
        sweeps.finish(ring)


async def test_a_sweep_gives_each_named_ring_one_turn_and_waits_for_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sweeps, taken = Sweeps(), list[tuple[str, Turn]]()
    async with trio.open_nursery() as nursery:
        for ring, secs in (("A", 2.0), ("B", 1.0), ("C", 1.0)):
            nursery.start_soon(partial(take, sweeps, ring, taken, secs=secs))
        begin = trio.current_time()
        await sweeps.run({"A": 10, "B": 20})
        assert trio.current_time() - begin == pytest.approx(2.0)
        nursery.cancel_scope.cancel()
    assert taken == [("B", Turn(1, 2, 20, final=False)), ("A", Turn(1, 2, 10, final=False))]


async def test_sweeps_run_one_at_a_time_whoever_asks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sweeps, taken = Sweeps(), list[tuple[str, Turn]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(take, sweeps, "A", taken, secs=1))
        nursery.start_soon(partial(take, sweeps, "B", taken, secs=2))
        async with trio.open_nursery() as clocks:
            clocks.start_soon(sweeps.run, {"A": 1, "B": 1})
            clocks.start_soon(sweeps.run, {"A": 2, "B": 2})
        nursery.cancel_scope.cancel()
    assert [turn.sweep for _, turn in taken] == [1, 1, 2, 2]


async def test_a_sweep_over_nothing_is_over_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1):
        await Sweeps().run({})


async def test_a_turn_waits_for_a_reader_that_comes_late(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sweeps, taken = Sweeps(), list[tuple[str, Turn]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeps.run, {"A": 1})
        await trio.sleep(5)
        nursery.start_soon(partial(take, sweeps, "A", taken, secs=0))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [turn.limit for _, turn in taken] == [1]


async def test_a_reader_cancelled_while_it_waits_leaves_the_turn_to_its_successor(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sweeps = Sweeps()
    with trio.move_on_after(1):
        await sweeps.next("A")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeps.run, {"A": 3})
        turn = await sweeps.next("A")
        assert turn is not None
        assert turn.limit == 3
        sweeps.finish("A")


async def test_a_fresh_clock_waits_for_the_sweep_of_the_one_that_crashed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sweeps, taken = Sweeps(), list[tuple[str, Turn]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(take, sweeps, "A", taken, secs=2))
        with trio.move_on_after(1):
            await sweeps.run({"A": 1})
        await sweeps.run({"A": 2})
        nursery.cancel_scope.cancel()
    assert [(turn.sweep, turn.limit) for _, turn in taken] == [(1, 1), (2, 2)]


async def test_after_the_final_turn_there_is_none(autojump_clock: trio.testing.MockClock) -> None:
    sweeps, taken = Sweeps(), list[tuple[str, Turn]]()
    async with trio.open_nursery() as nursery:  # the readers end by themselves
        nursery.start_soon(partial(take, sweeps, "A", taken, secs=1))
        nursery.start_soon(partial(take, sweeps, "B", taken, secs=2))
        await sweeps.run({"A": 0, "B": 0}, final=True)
    assert [turn.final for _, turn in taken] == [True, True]


async def test_a_reader_that_crashed_in_its_final_turn_has_a_successor_that_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sweeps = Sweeps()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: sweeps.run({"A": 0}, final=True))
        await sweeps.next("A")
        sweeps.finish("A")  # in its `finally`
    with trio.fail_after(1):
        assert await sweeps.next("A") is None
        await sweeps.run({"A": 5})  # nor does anybody wait for it
