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
REFUSED = "permissions violation"


class Broker:
    """The compose file, on a port of the test's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.port = free_port()

    def compose(self, *words: object) -> str:
        port = {"LAVENDER_BROKER_PORT": str(self.port)}
        return self._engine.run("compose", *FILES, *words, environment=port, within_secs=600)

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


def check(port: int, secrets: Path, user: str) -> subprocess.CompletedProcess[str]:
    """Whether ingest can work with the credentials of a user."""
    environment = {
        "LAVENDER_BROKER__URL": f"tls://localhost:{port}",
        "LAVENDER_BROKER__TLS_CA_FILE": str(secrets / "ca.crt"),
        "LAVENDER_BROKER__NKEY_SEED_FILE": str(secrets / f"{user}.seed"),
    }
    return subprocess.run(
        [sys.executable, "-m", "services.ingest", "--check"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_agents_are_added_and_each_may_do_its_own(broker: Broker, tmp_path: Path) -> None:
    broker.compose("run", "--rm", "credentials", "--only", "nats", "--agent", "acme.web-1")
    broker.compose("restart", "nats")
    broker.wait_until_healthy()
    broker.compose("cp", "credentials:/authority", tmp_path / "secrets")
    ingest = check(broker.port, tmp_path / "secrets", "services/ingest")
    assert "connected" in ingest.stdout, ingest
    assert REFUSED not in ingest.stderr
    agent = check(broker.port, tmp_path / "secrets", "agents/acme.web-1")
    assert REFUSED in agent.stderr, agent
