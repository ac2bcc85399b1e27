"""Peers that are no good broker: too old, dumb, abrupt."""

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from structlog.testing import capture_logs

from tests.broker.kit import until
from transport.crossing import open_loop
from transport.errors import BrokerTooOld
from transport.session import Session
from transport.settings import BrokerSettings

Greeting = Callable[[trio.SocketStream], Awaitable[None]]


def info(**others: object) -> bytes:
    body = {"server_id": "x", "version": "2.10.4", "max_payload": 1 << 20, "headers": True}
    return b"INFO " + json.dumps(body | others).encode() + b"\r\n"


@asynccontextmanager
async def listening(greet: Greeting) -> AsyncIterator[Session]:
    async def serve(stream: trio.SocketStream) -> None:
        try:
            await greet(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the other side has seen enough

    async with trio.open_nursery() as nursery:
        listen = functools.partial(trio.serve_tcp, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(listen, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        yield Session(BrokerSettings(), name="x", url=f"nats://127.0.0.1:{port}", ping_secs=0.1)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["2.9.25", "", "new"])
async def test_one_that_is_too_old_is_refused_before_we_say_who_we_are(version: str) -> None:
    said: list[bytes] = []

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(info(version=version))
        said.append(await stream.receive_some())

    async with listening(greet) as session:
        with pytest.raises(BrokerTooOld, match=r"127\.0\.0\.1.*needs 2\.10\.0"):
            async with open_loop():
                await session.run()
        await until(lambda: bool(said))
    assert said == [b""]


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def talk_http(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await stream.receive_some()


async def endless_line(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"INFO " + b"x" * 65_536)


async def half_json(stream: trio.SocketStream) -> None:
    await stream.send_all(b"INFO {\r\n")
    await stream.receive_some()


async def hang_up_on_connect(stream: trio.SocketStream) -> None:
    await stream.send_all(info())
    await stream.receive_some()


@pytest.mark.parametrize("greet", [hang_up, talk_http, endless_line, half_json, hang_up_on_connect])
async def test_no_odd_greeting_ends_the_session(greet: Greeting) -> None:
    attempts = 0

    async def count(stream: trio.SocketStream) -> None:
        nonlocal attempts
        attempts += 1
        await greet(stream)

    async with listening(count) as session, open_loop(), trio.open_nursery() as nursery:
        with capture_logs() as logs:
            nursery.start_soon(session.run)
            await until(lambda: attempts >= 3)
            assert not session.connected
            nursery.cancel_scope.cancel()
    assert [each["event"] for each in logs] == ["broker cannot be reached"]


async def test_one_that_talks_nonsense_later_is_left() -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(info())
        heard = b""
        while b"PING" not in heard:
            heard += await stream.receive_some()
        await stream.send_all(b"PONG\r\n")
        await stream.receive_some()
        await stream.send_all(b"MSG nonsense\r\nHMSG x 1 y z\r\n-ERR\r\n")
        await trio.sleep_forever()

    async with listening(greet) as session, open_loop(), trio.open_nursery() as nursery:
        with capture_logs() as logs:
            nursery.start_soon(session.run)
            await until(lambda: sum(each["event"] == "broker lost" for each in logs) >= 2)
            nursery.cancel_scope.cancel()
