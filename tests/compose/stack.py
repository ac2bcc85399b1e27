"""The stack of docker-compose.yml on an engine of one's own, and what a test may ask of it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from actors.agent.lock import LOCK
from tests.compose.engine import ROOT, Engine
from tests.services.postgres import free_port

HERE = Path(__file__).resolve().parent
FILES = ("-f", ROOT / "docker-compose.yml", "-f", HERE / "override.yml")
AGENT_ID = "compose-test"
SERVICES = (
    *("nats", "timescaledb", "redis"),
    *("ingest", "telemetry-writer", "detection", "alert-writer", "agent"),
)
_BUILD_SECS = 900.0
_WITHIN_SECS = 90.0

T = TypeVar("T")


class Stack:
    """The product's own compose file, with the test's few changes.

    Args:
        engine: a running one, with the images that stand in for public ones.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.port = free_port()
        self._environment = {
            "LAVENDER_BROKER_PORT": str(self.port),
            "LAVENDER_AGENT_ID": AGENT_ID,
        }

    def compose(self, *words: object, within_secs: float = 300.0) -> str:
        """Run `docker compose` with these words; what it printed."""
        return self.engine.run(
            "compose", *FILES, *words, environment=self._environment, within_secs=within_secs
        )

    def shell(self, command: str, folder: Path) -> None:
        """Run a command as a reader of the documents would, in a folder for what it writes."""
        files = ":".join(str(each) for each in FILES if each != "-f")
        surroundings = {
            **self.engine.environment,
            **self._environment,
            "COMPOSE_FILE": files,
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        }
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=folder,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_SECS,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def build(self) -> None:
        """Build every image."""
        self.compose("build", within_secs=_BUILD_SECS)

    def up(self) -> None:
        """Start everything, in the order of the health checks, and wait until all is healthy."""
        self.compose("up", "--detach")
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        """Wait for everything."""
        self.wait_for(lambda: all(self.health(name) == "healthy" for name in SERVICES))

    def down(self) -> None:
        """Take everything down, with its data."""
        self.compose("down", "--volumes", "--timeout", "30")

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        name = self.compose("ps", "--all", "--quiet", service).strip()
        return dict(json.loads(self.engine.run("inspect", name))[0])

    def health(self, service: str) -> str:
        """``healthy``, ``starting``, ``unhealthy``, or empty while it does not run."""
        state = self.inspect(service)["State"]
        return str(state["Health"]["Status"]) if state["Running"] else ""

    def run_in(self, service: str, *words: object) -> str:
        """Run a program in a service's container; what it printed."""
        return self.compose("exec", "--no-TTY", service, *words)

    def kill(self, service: str) -> None:
        """SIGKILL to the service's main process, from outside, as an accident would; it comes back.

        Not `docker kill`, after which the engine restarts nothing.
        """
        before = self.inspect(service)["State"]
        os.kill(before["Pid"], signal.SIGKILL)
        self.wait_for(
            lambda: (
                self.inspect(service)["State"]["StartedAt"] != before["StartedAt"]
                and self.health(service) == "healthy"
            )
        )

    def sql(self, statement: str) -> list[str]:
        """Ask the database as its superuser; the lines it printed, columns parted by ``|``."""
        psql = ("psql", "-XAtq", "-U", "postgres", "-d", "lavender", "-c", statement)
        return self.run_in("timescaledb", *psql).splitlines()

    def account(self) -> dict[str, Any]:
        """What the ledger says of the stack's agent."""
        words = ("python", "-m", "services.ledger", "--json", "--count-rows", "--agent", AGENT_ID)
        try:
            printed = self.run_in("telemetry-writer", *words)
        except AssertionError as error:  # exit 1, and the JSON in the text: it does not balance yet
            printed = next(line for line in str(error).splitlines() if line.startswith("{"))
        return dict(json.loads(printed)["agents"][0])

    def balanced(self) -> dict[str, Any]:
        """The account once it balances; what is on its way must have arrived first."""

        def found() -> dict[str, Any] | None:
            account = self.account()
            return account if not account["problems"] else None

        return self.wait_for(found)

    def wait_for(self, found: Callable[[], T | None], *, within_secs: float = _WITHIN_SECS) -> T:
        """Poll until it is true; that."""
        deadline = time.monotonic() + within_secs
        while time.monotonic() < deadline:
            result = found()
            if result:
                return result
            time.sleep(0.5)
        logs = self.compose("logs", "--no-color", "--tail", "20")
        shown = "\n".join(line[:300] for line in logs.splitlines() if '"type":' not in line)
        raise AssertionError(f"not within {within_secs} s\n{self.compose('ps', '--all')}\n{shown}")


@contextmanager
def machine_to_ourselves() -> Iterator[None]:
    """No agent of the machine runs meanwhile: the container's cannot see that one's lock."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def execute(marker: str, *, times: int) -> subprocess.Popen[bytes]:
    """Start as many short programs on this machine, each with a name of its own as its argument."""
    script = (
        f'i=0; while [ $i -lt {times} ]; do /bin/true "{marker}-$i."; i=$((i+1)); sleep 0.02; done'
    )
    return subprocess.Popen(["/bin/sh", "-c", script])
