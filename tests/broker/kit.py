"""What tests with a real broker share; other folders import the fixture from here."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from transport.crossing import open_loop
from transport.server import EmbeddedServer
from transport.session import Delivery, Outgoing, Receipt, Session
from transport.settings import BrokerSettings
from transport.streams import Consumer, Stream, ensure

DEADLINE_SECS = 30.0
WORK = Stream("WORK", "work.>", 3600, 64 << 20, ("worker",))
DEAD = Stream("DEAD_LETTER", "deadletter.>", 3600, 64 << 20)
WORKER = Consumer("worker", "WORK", ack_wait_secs=1.0)


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A running broker of one's own, on a free port."""
    server = EmbeddedServer(tmp_path / "broker")
    await server.start()
    yield server
    if server.running:
        os.kill(server.pid, signal.SIGCONT)  # a test may have left it stopped
    await server.stop()


def session_for(server: EmbeddedServer, **options: Any) -> Session:
    """A session of that broker."""
    options.setdefault("name", "test")
    settings = options.pop("settings", BrokerSettings())
    return Session(settings, url=options.pop("url", server.url), **options)


@asynccontextmanager
async def running(*sessions: Session) -> AsyncIterator[None]:
    """Sessions, run and connected."""
    async with open_loop(), trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(session.run)
        with trio.fail_after(DEADLINE_SECS):
            for session in sessions:
                await session.wait_connected()
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(server: EmbeddedServer, **options: Any) -> AsyncIterator[Session]:
    """One session, run and connected."""
    session = session_for(server, **options)
    async with running(session):
        yield session


async def make_work(session: Session, *, consumer: Consumer = WORKER) -> None:
    """A stream and its consumer, for tests."""
    await ensure(session, streams=(WORK, DEAD), consumers=(consumer,))


def work(numbers: Sequence[int] | range, *, size: int = 64) -> list[Outgoing]:
    """Messages of the `WORK` stream, told apart by their ids."""
    return [
        Outgoing("work.acme.web-1", b"%d " % number + b"x" * size, f"id-{number}")
        for number in numbers
    ]


async def publish_until_stored(
    session: Session, messages: Sequence[Outgoing], *, within_secs: float = 1.0
) -> list[Receipt]:
    """Publish again whatever has no receipt, as a publisher with a spool does."""
    stored: list[Receipt] = []
    waiting = list(messages)
    with trio.fail_after(DEADLINE_SECS):
        while waiting:
            receipts = await session.publish_all(waiting, within_secs=within_secs)
            stored += [receipt for receipt in receipts if receipt.stored]
            waiting = [
                message
                for message, receipt in zip(waiting, receipts, strict=True)
                if not receipt.stored
            ]
            await trio.sleep(0.01)
    return stored


async def take(
    channel: trio.abc.ReceiveChannel[list[Delivery]], count: int, *, secs: float = DEADLINE_SECS
) -> list[Delivery]:
    """So many deliveries."""
    found: list[Delivery] = []
    with trio.fail_after(secs):
        while len(found) < count:
            found += await channel.receive()
    return found


async def until(condition: Callable[[], bool], *, secs: float = DEADLINE_SECS) -> None:
    """Wait until it holds."""
    with trio.fail_after(secs):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await trio.sleep(0.01)
