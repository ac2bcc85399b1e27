import select
from collections.abc import Iterator

import pytest
import trio

from actors.agent.timer import Timer


@pytest.fixture
def timer() -> Iterator[Timer]:
    made = Timer()
    yield made
    made.close()


async def test_it_goes_off_when_its_time_has_come_and_not_before(timer: Timer) -> None:
    timer.after(0.05)
    begin = trio.current_time()
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(timer.descriptor)
    assert trio.current_time() - begin >= 0.05


def test_setting_it_anew_forgets_what_was(timer: Timer) -> None:
    poll = select.poll()
    poll.register(timer.descriptor, select.POLLIN)
    timer.after(0)
    assert poll.poll(10_000)
    timer.after(3600)
    assert not poll.poll(0)


def test_each_time_it_goes_off_is_an_edge(timer: Timer) -> None:
    with select.epoll() as epoll:
        epoll.register(timer.descriptor, select.EPOLLIN | select.EPOLLET)
        for _ in range(3):
            timer.after(0.001)
            assert epoll.poll(10) == [(timer.descriptor, select.EPOLLIN)]
            assert epoll.poll(0) == []
