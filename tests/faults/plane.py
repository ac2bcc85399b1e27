"""Broker, Redis and detection workers as processes of a test, which feeds them and hears them."""

from __future__ import annotations

import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
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
        self.payloads: dict[bytes, None] = {}
        """Of the alerts heard, in their order."""
        self._folder = folder
        self._url = url
        self._sent = 0
        self._heard: dict[str, list[str]] = {agent: [] for agent in AGENTS}

    def start_worker(self, module: str = "tests.faults.detection_worker") -> Process:
        """One more."""
        port = free_port()
        worker = Process(
            f"worker-{len(self.workers)}",
            [sys.executable, "-m", module],
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
                self.payloads.update(dict.fromkeys(each.payload for each in deliveries))
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


@asynccontextmanager
async def listening(plane: Plane) -> AsyncIterator[None]:
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
