"""The keys of the stack's broker: who may do what with them, and who may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.stack.keys import ACCOUNTS, Keys, make_keys
from tests.broker.kit import running, session_for, take
from transport.credentials import identity_of
from transport.crossing import open_loop
from transport.errors import CredentialsError, Unauthorized
from transport.server import EmbeddedServer
from transport.session import Outgoing, Session
from transport.settings import BrokerSettings
from transport.streams import INGEST, STREAMS, ensure


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path / "nats")


@pytest.fixture
async def broker(tmp_path: Path, keys: Keys) -> AsyncIterator[EmbeddedServer]:
    """A stack's, with its keys."""
    assert keys.agent
    server = EmbeddedServer(tmp_path / "nats", extra=f'include "{ACCOUNTS}"')
    await server.start()
    yield server
    await server.stop()


def agent(server: EmbeddedServer, keys: Keys, name: str) -> Session:
    identity = identity_of(keys.agent, "a test")
    return session_for(server, name=name, identity=identity, inbox_prefix=f"_INBOX.{name}")


def services(server: EmbeddedServer, keys: Keys) -> Session:
    return session_for(server, name="stack", settings=BrokerSettings(nkey_seed_file=keys.services))


def test_they_are_made_once_and_for_their_owner_alone(tmp_path: Path, keys: Keys) -> None:
    kept = keys.services.parent
    assert kept == tmp_path / "nats" / "keys"
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in kept.iterdir()} == {0o600}
    before = (keys.services.read_text(), keys.agent)
    again = make_keys(tmp_path / "nats")
    assert (again.services.read_text(), again.agent) == before
    assert keys.agent not in repr(keys)


def test_a_damaged_key_is_said(keys: Keys) -> None:
    keys.services.write_text("SUNONSENSE")
    with pytest.raises(CredentialsError, match=r"services\.seed: it holds no user's nkey seed"):
        make_keys(keys.services.parent.parent)


async def test_services_and_agents_of_any_name_are_let_in(
    broker: EmbeddedServer, keys: Keys
) -> None:
    one, two = agent(broker, keys, "dev.dev-agent-1"), agent(broker, keys, "acme.web-1")
    stack = services(broker, keys)
    async with running(one, two, stack):
        await ensure(stack, streams=STREAMS, consumers=(INGEST,))
        for each, name in ((one, "dev.dev-agent-1"), (two, "acme.web-1")):
            sent = [
                Outgoing(f"{prefix}.{name}", b"{}", name) for prefix in ("telemetry.raw", "alerts")
            ]
            receipts = await each.publish_all(sent, within_secs=10)
            assert [receipt.stored for receipt in receipts] == [True, True]
        async with stack.consume(INGEST) as channel:
            found = await take(channel, 2)
        assert {each.subject for each in found} == {
            "telemetry.raw.dev.dev-agent-1",
            "telemetry.raw.acme.web-1",
        }
        (other,) = await one.publish_all(
            [Outgoing("telemetry.accepted.dev.dev-agent-1", b"{}", "x")], within_secs=10
        )
        assert "permissions violation" in other.error


async def test_who_has_no_key_is_refused(
    broker: EmbeddedServer, keys: Keys, tmp_path: Path
) -> None:
    other = make_keys(tmp_path / "other")
    for identity in (None, identity_of(other.agent, "a test")):
        session = session_for(broker, name="x", identity=identity)
        with pytest.raises(Unauthorized):
            async with open_loop():
                await session.run()
    assert keys.agent != other.agent


async def test_a_broker_without_keys_takes_a_client_that_has_one(
    tmp_path: Path, keys: Keys
) -> None:
    """Another broker may have the port on which a stack once was."""
    server = EmbeddedServer(tmp_path / "open")
    await server.start()
    try:
        async with running(agent(server, keys, "dev.dev-agent-1")):
            pass
    finally:
        await server.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
async def test_another_user_of_the_machine_can_neither_read_the_keys_nor_connect(
    broker: EmbeddedServer, keys: Keys
) -> None:
    script = f"""
import os, socket, json
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    open({str(keys.services)!r}).read()
    print("read")
except PermissionError:
    pass
with socket.create_connection(("127.0.0.1", {broker.port})) as s:
    said = s.recv(65536)
    try:
        words = (b'CONNECT {{"verbose":false}}', b"SUB telemetry.raw.> 1", b"PING", b"")
        s.sendall(b"\\r\\n".join(words))
        while more := s.recv(65536):
            said += more
    except ConnectionError:
        pass
    print(json.dumps(said.decode()))
"""
    done = subprocess.run(  # noqa: ASYNC221 - a moment
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said.startswith("INFO ")
    assert "PONG" not in said
