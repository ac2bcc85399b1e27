"""What the metrics' server answers to whoever asks."""

from __future__ import annotations

import socket

import trio

from actors.runtime.testing import run_actor
from services.metrics import Metrics, MetricsServer

UPGRADE = (
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def ask(port: int, request: bytes) -> bytes:
    while True:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            break
        except OSError:
            await trio.sleep(0.05)
    async with stream:
        await stream.send_all(request)
        return bytes(await stream.receive_some())


async def test_an_upgrade_to_a_websocket_is_the_asker_s_fault() -> None:
    port = free_port()
    with trio.fail_after(20):
        async with run_actor(MetricsServer(metrics=Metrics(), listen=f"127.0.0.1:{port}")):
            assert (await ask(port, UPGRADE)).startswith(b"HTTP/1.1 403")
            asked = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            assert (await ask(port, asked)).startswith(b"HTTP/1.1 200")
