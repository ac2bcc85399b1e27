import pytest
import trio

from services.gate import Gate
from services.store.interface import StoreError, StoreRefused, StoreUnavailable


class Flaky:
    """A store that is away for so many calls."""

    def __init__(self, *, away: int = 0, closed: int = 0) -> None:
        self.away = away
        self.closed = closed
        self.opened = 0
        self.calls = 0

    async def open(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed:
            self.closed -= 1
            raise StoreUnavailable("starting up")
        self.opened += 1

    async def work(self) -> int:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        return self.calls


async def call(gate: Gate) -> int:
    return await gate.call(lambda store: store.work())  # type: ignore[attr-defined]  # Flaky's own


async def test_a_store_that_is_away_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    store = Flaky(away=3)
    gate = Gate(store)  # type: ignore[arg-type]  # as much of a store as a gate needs
    assert await call(gate) == 4
    assert (gate.waits, gate.available, store.opened) == (3, True, 1)


async def test_a_store_that_does_not_open_is_opened_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = Flaky(closed=2)
    gate = Gate(store)  # type: ignore[arg-type]  # same
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(call, gate)
    assert (store.opened, store.calls) == (1, 5)


async def test_while_it_is_away_the_gate_says_so(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate(Flaky(away=10**6))  # type: ignore[arg-type]  # same
    with trio.move_on_after(60):
        await call(gate)
    assert not gate.available
    assert 10 < gate.waits < 100


async def test_what_the_store_refuses_is_no_wait() -> None:
    async def refuse(_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreRefused("no")

    gate = Gate(Flaky())  # type: ignore[arg-type]  # same
    with pytest.raises(StoreError, match="no"):
        await gate.call(refuse)
    assert gate.waits == 0
