"""Workers, Redis and the broker killed and stopped: every alert comes, once, and in order."""

from __future__ import annotations

import random
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from tests.broker.kit import publish_until_stored
from tests.faults.backend import Process, backend
from tests.services.detection.cast import expected, mail_of
from tests.services.detection.redis_server import RedisServer, redis
from tests.services.postgres import free_port
from transport.crossing import open_loop
from transport.messages import Alert
from transport.session import Session
from transport.settings import BrokerSettings
from transport.streams import ALERT_WRITER, DETECTION, ensure, used_by

DEADLINE_SECS = 120.0
HELD = "detection_state_partitions_held"
AGENTS = tuple(f"web-{number}" for number in range(12))


class Plane:
    """Broker, Redis, workers, and a session to feed them and to hear their alerts."""

    def __init__(self, folder: Path, broker: Process, server: RedisServer, url: str) -> None:
        self.broker = broker
        self.redis = server
        self.session = Session(BrokerSettings(), name="test", url=url, ping_secs=1.0)
        self.workers: list[Process] = []
        self._folder = folder
        self._url = url
        self._sent = 0
        self._heard: dict[str, list[str]] = {agent: [] for agent in AGENTS}

    def start_worker(self) -> Process:
        """One more."""
        port = free_port()
        worker = Process(
            f"worker-{len(self.workers)}",
            [sys.executable, "-m", "tests.faults.detection_worker"],
            self._folder,
            environment={
                "LAVENDER_BROKER__URL": self._url,
                "LAVENDER_DETECTION__STATE": self.redis.url,
                "LAVENDER_DETECTION__LISTEN": f"127.0.0.1:{port}",
                "LAVENDER_DETECTION__BATCH_MESSAGES": "8",
                "LAVENDER_CONFIG": str(self._folder / "lavender.toml"),
            },
        )
        worker.start()
        worker.port = port  # type: ignore[attr-defined]
        self.workers.append(worker)
        return worker

    async def feed(self, batches: int, *, pause_secs: float = 0.0) -> None:
        """So many batches more of each agent."""
        for number in range(self._sent, self._sent + batches):
            await publish_until_stored(self.session, [*mail_of([number], AGENTS)])
            await trio.sleep(pause_secs)
        self._sent += batches

    async def hear(self) -> None:
        """Listen to the alerts until cancelled."""
        async with self.session.consume(ALERT_WRITER) as feed:
            while True:
                deliveries = await feed.receive()
                self.session.ack(deliveries)
                for each in deliveries:
                    alert = msgspec.json.decode(each.payload, type=Alert)
                    self._heard[alert.agent_id].append(alert.detail)

    async def settle(self) -> None:
        """Wait for all alerts: each once, in order, of an engine that saw every batch once."""
        with trio.move_on_after(DEADLINE_SECS):
            while any(len(set(heard)) < self._sent for heard in self._heard.values()):  # noqa: ASYNC110
                await trio.sleep(0.05)
        heard = {agent: list(dict.fromkeys(details)) for agent, details in self._heard.items()}
        wanted = {agent: expected(range(self._sent), agent=agent) for agent in AGENTS}
        assert heard == wanted, "\n".join(
            f"== {each.name}\n{each.log()[-3000:]}" for each in self.workers
        )


def ask(worker: Process, path: str) -> tuple[int, str]:
    """What a worker serves; 0 if it does not."""
    url = f"http://127.0.0.1:{worker.port}{path}"  # type: ignore[attr-defined]
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def number(worker: Process, name: str) -> float:
    """One of its metrics; -1 if it is not there."""
    lines = [line.split() for line in ask(worker, "/metrics")[1].splitlines()]
    return next((float(line[1]) for line in lines if line[0] == f"lavender_{name}"), -1.0)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(DEADLINE_SECS):
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110 - of a process
            await trio.sleep(0.05)


def holds(worker: Process, count: int) -> Callable[[], bool]:
    return lambda: number(worker, HELD) == count


@contextmanager
def processes(folder: Path) -> Iterator[Plane]:
    with redis(folder / "redis") as server, backend(folder) as made:
        made.broker.start()
        plane = Plane(folder, made.broker, server, made.url)
        try:
            yield plane
        finally:
            for worker in plane.workers:
                if worker.running.poll() is None:
                    worker.running.send_signal(signal.SIGCONT)
                    worker.kill()


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    with processes(tmp_path) as made:
        async with _listening(made):
            yield made


@asynccontextmanager
async def _listening(plane: Plane) -> AsyncIterator[None]:
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(plane.session.run)
        with trio.fail_after(DEADLINE_SECS):
            await plane.session.wait_connected()
            await ensure(
                plane.session, streams=used_by((DETECTION, ALERT_WRITER)), consumers=(ALERT_WRITER,)
            )
        nursery.start_soon(plane.hear)
        yield
        nursery.cancel_scope.cancel()


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
