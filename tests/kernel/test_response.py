"""Responses: real kills of our own children, and everything that must not be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.endpoint import Endpoint, endpoint
from tests.kernel.workload import ADDRESS, Island, copy_as, island

THRESHOLD = 245
"""Nothing else on the machine can reach it: a private configuration leaves other processes a first
connection (15), rapid spawning (60), a reverse shell (90) and bonuses (65), 230 together."""
PORT = 6667


@dataclass(frozen=True)
class Scene:
    """A private configuration that only our own programs match, and what they do."""

    config: Path
    target: Path
    secret: Path

    def misdeeds(self, net: Island) -> list[str | Path]:
        """A command that scores above the threshold and then waits to be killed."""
        deeds = ["note", "base64", "open", str(self.secret), "connect", ADDRESS, str(PORT)]
        return [*net.enter, self.target, *deeds, "hold"]

    def score(self) -> int:
        """Points of the misdeeds, bonuses left out."""
        return 40 + 55 + 35 + 45 + 60 + 15


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, doer: Path) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    word = uuid.uuid4().hex[:6]
    target = copy_as(doer, folder, f"lvd{word}")
    secret = folder / f"secret{word}"
    secret.touch()
    config = folder / "lavender.toml"
    config.write_text(
        f"""
[filters]
shell_names = ["{target.name}"]
interpreters = ["{target.name}"]
sensitive_files = ["{secret}"]
suspicious_ports = [{PORT}]
safe_file_readers = []
safe_shell_launchers = []
[response]
kill_threshold = {THRESHOLD}
"""
    )
    return Scene(config, target, secret)


@contextmanager
def agent(scene: Scene, **overrides: Any) -> Iterator[Endpoint]:
    """An agent with the private configuration."""
    with endpoint(config=scene.config, **overrides) as running:
        yield running


@contextmanager
def victim(scene: Scene, net: Island) -> Iterator[subprocess.Popen[bytes]]:
    """A process that misbehaves, killed by us if by nobody else."""
    process = subprocess.Popen(scene.misdeeds(net))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_process_is_killed(scene: Scene, net: Island) -> None:
    with agent(scene, LAVENDER_RESPONSE__DRY_RUN="false") as running, victim(scene, net) as process:
        assert process.wait(10) == -signal.SIGKILL
        response = running.wait_for(lambda: next(iter(running.responses), None))
        assert response["pid"] == process.pid
        assert response["action"] == "killed"
        assert response["dry_run"] is False
        assert response["comm"] == scene.target.name
        assert response["score"] >= THRESHOLD
        assert response["kind"] == "response"
        assert response["timestamp"].endswith("Z")
        assert response["start_ns"] > 0
        assert response["rule"]
        assert response["reason"]
        alerts = running.alerts_about(pid=process.pid)
        assert alerts[-1]["base_score"] == scene.score()
        assert running.stop() == 0
        assert [each["pid"] for each in running.responses] == [process.pid]


def test_a_dry_run_says_what_it_would_do_and_does_nothing(scene: Scene, net: Island) -> None:
    with agent(scene) as running, victim(scene, net) as process:
        response = running.wait_for(lambda: next(iter(running.responses), None))
        assert (response["action"], response["dry_run"]) == ("would_kill", True)
        assert response["pid"] == process.pid
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert running.stop() == 0


def test_below_the_threshold_nothing_is_done(scene: Scene, net: Island) -> None:
    with (
        agent(
            scene, LAVENDER_RESPONSE__DRY_RUN="false", LAVENDER_RESPONSE__KILL_THRESHOLD="10000"
        ) as running,
        victim(scene, net) as process,
    ):
        running.wait_for(lambda: len(running.alerts_about(pid=process.pid)) >= 6)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert running.stop() == 0
        assert not running.responses


def test_a_protected_program_of_the_systems_own_lives_and_its_double_does_not(
    tmp_path: Path, doer: Path, net: Island
) -> None:
    folder = Path("/usr/local/lib") / f"lvd-{uuid.uuid4().hex[:8]}"
    name = f"lvd{uuid.uuid4().hex[:6]}"
    secret = tmp_path / name
    secret.touch()
    config = tmp_path / "lavender.toml"
    config.write_text(
        f"""
[filters]
shell_names = ["{name}"]
interpreters = ["{name}"]
sensitive_files = ["{secret}"]
suspicious_ports = [{PORT}]
safe_file_readers = []
safe_shell_launchers = []
[response]
dry_run = false
kill_threshold = {THRESHOLD}
protected_comms = ["{name}"]
"""
    )
    try:
        genuine = Scene(config, copy_as(doer, folder, name), secret)
        double = Scene(config, copy_as(doer, tmp_path / "d", name), secret)
        with (
            agent(genuine) as running,
            victim(genuine, net) as system,
            victim(double, net) as impostor,
        ):
            assert impostor.wait(10) == -signal.SIGKILL
            response = running.wait_for(
                lambda: next((r for r in running.responses if r["pid"] == system.pid), None)
            )
            assert response["action"] == "protected"
            assert "protected_comms" in response["reason"]
            with pytest.raises(subprocess.TimeoutExpired):
                system.wait(0.3)
            assert running.stop() == 0
    finally:
        (folder / name).unlink(missing_ok=True)
        folder.rmdir()


LAUNCHER = """
import subprocess, sys, os
agent = subprocess.Popen(sys.argv[3:])          # the agent is our child
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
fifo = open(sys.argv[1]).read()                 # until the test says so
os.execv(sys.argv[2], fifo.split())             # and then we misbehave
"""


def test_the_agents_own_ancestors_are_spared(scene: Scene, tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    # The launcher becomes the misbehaving program and is the agent's parent all the time.
    prefix = ("python3", "-S", "-c", LAUNCHER, str(fifo), "/usr/bin/nsenter")
    with (
        island() as net,
        endpoint(config=scene.config, prefix=prefix, LAVENDER_RESPONSE__DRY_RUN="false") as running,
    ):
        parent = running.process
        child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
        try:
            fifo.write_text(" ".join(map(str, scene.misdeeds(net))))
            response = running.wait_for(
                lambda: next((r for r in running.responses if r["pid"] == parent.pid), None)
            )
            assert response["action"] == "protected"
            assert parent.poll() is None
        finally:
            os.kill(child, signal.SIGTERM)
            parent.kill()
            parent.wait()


def test_a_flood_of_alerts_about_one_process_is_answered_once(scene: Scene, net: Island) -> None:
    with agent(scene, LAVENDER_RESPONSE__DRY_RUN="false") as running:
        for _ in range(5):
            with victim(scene, net) as process:
                assert process.wait(10) == -signal.SIGKILL
        assert running.stop() == 0
        pids = [each["pid"] for each in running.responses]
        assert len(pids) == len(set(pids)) == 5
        assert {each["action"] for each in running.responses} == {"killed"}


def test_a_stopped_agent_kills_nobody(scene: Scene, net: Island) -> None:
    with agent(scene, LAVENDER_RESPONSE__DRY_RUN="false") as running:
        assert running.stop() == 0
        with victim(scene, net) as process, pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
