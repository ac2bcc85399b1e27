"""Workers, Redis and the broker killed and stopped: every alert comes, once, and in order."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from actors.detection.settings import FilterSettings
from actors.rulebook import RulesSettings
from services.detection.host_engine import HostEngine
from services.detection.rules import rule_files
from tests.faults.plane import (
    AGENTS,
    HELD,
    Plane,
    ask,
    holds,
    listening,
    number,
    processes,
    until,
)
from tests.services.detection.cast import batch_of
from transport.messages import encode
from transport.subjects import Address


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    with processes(tmp_path) as made:
        async with listening(made):
            yield made


async def test_a_worker_that_is_killed_under_load_costs_nothing(plane: Plane) -> None:
    workers = [plane.start_worker() for _ in range(3)]
    await until(
        lambda: all(number(each, "detection_state_partitions_held") > 0 for each in workers)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: plane.feed(400, pause_secs=0.02))
        for worker in workers[:2]:
            await trio.sleep(random.uniform(1, 3))
            worker.kill()
    await plane.settle()
    await until(holds(workers[2], 16))
    assert "partitions taken" in workers[2].log()


def by_one_engine(batches: int) -> set[bytes]:
    """The alerts of so many batches of each agent, by the rules and nobody disturbed."""
    book = rule_files(RulesSettings(), FilterSettings()).book
    engines = {
        agent: HostEngine(lambda: book.rules, Address("acme", agent), batch_of(0, agent).host, None)
        for agent in AGENTS
    }
    return {
        encode(alert)
        for number in range(batches)
        for agent, engine in engines.items()
        for alert in engine.process(batch_of(number, agent))
    }


async def test_three_workers_with_one_killed_give_the_alerts_of_one_engine_byte_for_byte(
    plane: Plane,
) -> None:
    wanted = by_one_engine(150)
    assert len(wanted) > len(AGENTS)
    workers = [plane.start_worker("services.detection") for _ in range(3)]
    await until(lambda: all(number(each, HELD) > 0 for each in workers))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: plane.feed(150, pause_secs=0.02))
        await trio.sleep(2)
        workers[0].kill()
    with trio.move_on_after(60):
        while len(plane.payloads) < len(wanted):  # noqa: ASYNC110
            await trio.sleep(0.05)
    await until(lambda: sum(number(each, HELD) for each in workers[1:]) == 16)
    assert set(plane.payloads) == wanted


async def test_two_workers_share_and_a_third_gets_its_part(plane: Plane) -> None:
    one, two = plane.start_worker(), plane.start_worker()
    await until(lambda: holds(one, 8)() and holds(two, 8)())
    await plane.feed(20)
    three = plane.start_worker()
    await until(lambda: number(three, HELD) >= 4)
    await plane.feed(20)
    assert await trio.to_thread.run_sync(two.stop) == 0
    await plane.feed(20)
    await plane.settle()
    total = sum(number(each, "detection_alerts") for each in (one, three))
    assert 0 < total < 60 * len(AGENTS)


async def test_a_worker_that_sleeps_through_its_lease_does_no_harm(plane: Plane) -> None:
    sleeper = plane.start_worker()
    await until(holds(sleeper, 16))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: plane.feed(300, pause_secs=0.02))
        await trio.sleep(1)
        sleeper.running.send_signal(signal.SIGSTOP)
        other = plane.start_worker()
        await until(holds(other, 16))
        sleeper.running.send_signal(signal.SIGCONT)
        await until(lambda: "partitions given up" in sleeper.log())
        await until(lambda: holds(sleeper, 8)() and holds(other, 8)())
    await plane.settle()
    assert plane.redis.say("KEYS", "lavender:unit:*").count("unit:") == len(AGENTS)


async def test_a_redis_that_comes_back_empty_is_written_again(plane: Plane) -> None:
    one, two = plane.start_worker(), plane.start_worker()
    await until(lambda: holds(one, 8)() and holds(two, 8)())
    await plane.feed(30)
    await plane.settle()
    plane.redis.kill()
    await until(lambda: ask(one, "/healthz")[0] == 503 and ask(two, "/healthz")[0] == 503)
    acked = number(one, "detection_messages_acked"), number(two, "detection_messages_acked")
    await plane.feed(10)
    await trio.sleep(2)
    assert acked == (
        number(one, "detection_messages_acked"),
        number(two, "detection_messages_acked"),
    )
    await trio.to_thread.run_sync(plane.redis.start)
    await plane.settle()
    await until(lambda: ask(one, "/healthz")[0] == 200)
    total = 40 * len(AGENTS)
    await until(
        lambda: sum(number(each, "detection_messages_acked") for each in (one, two)) >= total
    )
    for worker in (one, two):
        assert "state is away; acks wait for it" in worker.log()
        assert "state is back" in worker.log()
    one.kill()
    await until(holds(two, 16))
    await plane.feed(10)
    await plane.settle()
    assert number(two, "detection_engines_restored") > 0


async def test_a_redis_that_is_killed_again_and_again_under_load_costs_nothing(
    plane: Plane,
) -> None:
    workers = [plane.start_worker() for _ in range(2)]
    await until(lambda: all(holds(each, 8)() for each in workers))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: plane.feed(300, pause_secs=0.02))
        for _ in range(3):
            await trio.sleep(random.uniform(0.5, 2))
            plane.redis.kill()
            await trio.sleep(random.uniform(0, 1))
            await trio.to_thread.run_sync(plane.redis.start)
    await plane.settle()
    assert all(number(each, "actor_crashes") <= 0 for each in workers)


async def test_a_broker_that_is_killed_under_load_costs_nothing(plane: Plane) -> None:
    workers = [plane.start_worker() for _ in range(2)]
    await until(lambda: all(holds(each, 8)() for each in workers))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: plane.feed(200, pause_secs=0.02))
        for _ in range(2):
            await trio.sleep(random.uniform(0.5, 2))
            plane.broker.kill()
            await trio.sleep(random.uniform(0, 1))
            plane.broker.start()
    await plane.settle()
