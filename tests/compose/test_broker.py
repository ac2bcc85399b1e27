"""The broker alone, docker/nats/compose.yml."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.engine import ROOT, Engine
from tests.compose.stack import HERE
from tests.services.postgres import free_port

FILES = ("-f", ROOT / "docker/nats/compose.yml", "-f", HERE / "override.nats.yml")


class Broker:
    """The compose file, on a port of the test's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.port = free_port()

    def compose(self, *words: object) -> str:
        port = {"LAVENDER_BROKER_PORT": str(self.port)}
        return self._engine.run("compose", *FILES, *words, environment=port, within_secs=600)

    def restart(self) -> None:
        self.compose("restart", "nats")
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + 60
        while "(healthy)" not in self.compose("ps", "nats"):
            assert time.monotonic() < deadline, self.compose("logs", "--no-color")
            time.sleep(0.5)


@pytest.fixture
def broker(docker: Engine) -> Iterator[Broker]:
    made = Broker(docker)
    try:
        made.compose("up", "--build", "--detach")
        made.wait_until_healthy()
        yield made
    finally:
        made.compose("down", "--volumes")


def let_in(port: int, secrets: Path, user: str) -> bool:
    """Whether the broker takes the key of a user."""
    environment = {
        "LAVENDER_BROKER__URL": f"tls://localhost:{port}",
        "LAVENDER_BROKER__TLS_CA_FILE": str(secrets / "ca.crt"),
        "LAVENDER_BROKER__NKEY_SEED_FILE": str(secrets / f"{user}.seed"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "services.ingest", "--check"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode == 0


def test_an_agent_is_let_in_and_locked_out(broker: Broker, tmp_path: Path) -> None:
    secrets, agent = tmp_path / "secrets", "agents/acme.web-1"
    broker.compose("run", "--rm", "credentials", "--only", "nats", "--agent", "acme.web-1")
    broker.restart()
    broker.compose("cp", "credentials:/authority", secrets)
    assert let_in(broker.port, secrets, "services/ingest")
    assert let_in(broker.port, secrets, agent)
    broker.compose("run", "--rm", "--entrypoint=rm", "credentials", f"/authority/{agent}.public")
    broker.compose("run", "--rm", "credentials", "--only", "nats")
    broker.restart()
    assert let_in(broker.port, secrets, "services/ingest")
    assert not let_in(broker.port, secrets, agent)
