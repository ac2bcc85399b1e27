import asyncio
import gc

import pytest
import trio

from transport.crossing import call, open_loop


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


async def test_an_asyncio_function_runs() -> None:
    async with open_loop():
        assert await call(double, 21) == 42


async def test_its_error_arrives_as_it_is() -> None:
    async def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        async with open_loop():
            await call(fail)


async def test_cancelled_it_is_waited_for() -> None:
    cleaned = []

    async def linger() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    async with open_loop():
        with trio.move_on_after(0.05):
            await call(linger)
        assert cleaned == [True]


async def test_without_a_loop_it_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match="open_loop"):
        await call(double, 1)


async def forget(error: Exception) -> None:
    asyncio.get_running_loop().create_future().set_exception(error)
    await asyncio.sleep(0)
    gc.collect()


async def test_an_error_that_a_library_forgot_does_not_end_the_program() -> None:
    async with open_loop():
        await call(forget, ConnectionError("closed"))
        await trio.sleep(0.01)
        assert await call(double, 4) == 8


async def test_a_task_that_dies_unseen_does() -> None:
    async def fail() -> None:
        raise LookupError("no")

    async def leave() -> None:
        task = asyncio.get_running_loop().create_task(fail())
        await asyncio.sleep(0.01)
        del task
        gc.collect()

    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with open_loop():
            await call(leave)
            await trio.sleep(5)
