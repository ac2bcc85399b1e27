"""The services as an operator starts them: real processes, a real broker, what they print."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.faults.backend import ROOT, Backend, Process, backend
from tests.services.postgres import free_port
from transport import local_key
from transport.server import EmbeddedServer

SERVICES = ("ingest", "telemetry_writer", "alert_writer")
USERS = 'authorization { user: "ingest", password: "right" }'


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "LAVENDER" not in name}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Its lines for people: not the log's."""
    return [line for line in done.stderr.splitlines() if not line.startswith("{")]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Backend]:
    with backend(tmp_path) as made:
        made.broker.start()
        made.wait_for(lambda: "Server is ready" in made.broker.log())
        yield made


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_shows_its_topology(service: str) -> None:
    done = run(f"services.{service}", "--show-topology")
    assert done.returncode == 0
    assert done.stdout.startswith(f"topology {service}\n")
    assert "_intake -> " in done.stdout


@pytest.mark.parametrize("service", [*SERVICES, "detection", "stack", "ledger"])
def test_a_wrong_configuration_is_named_and_nothing_is_started(
    service: str, tmp_path: Path
) -> None:
    file = tmp_path / "lavender.toml"
    file.write_text("[ingest]\nagent_event_per_sec = 5\n")
    done = run(f"services.{service}", "--config", str(file))
    assert done.returncode == 2
    problem = f"lavender: {file}: ingest.agent_event_per_sec = 5: there is no such key"
    assert said(done) == [f"{problem}; did you mean agent_events_per_sec?"]


def test_a_topology_that_cannot_be_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lavender.toml"
    file.write_text('[topology.ingest.actors.x]\nkind = "ingest_outlett"\n')
    done = run("services.ingest", "--config", str(file))
    assert done.returncode == 2
    assert "should be 'ingest_outlet'" in said(done)[0]


def test_a_check_says_what_there_is(running: Backend) -> None:
    done = run("services.telemetry_writer", "--check", **running.environment)
    assert done.returncode == 0, done.stdout
    assert f"connected to {running.url}" in done.stdout
    assert f"{running.database} is made at the first start" in done.stdout
    assert not running.database.exists()
    absent = {"LAVENDER_BROKER__URL": f"nats://127.0.0.1:{free_port()}"}
    done = run("services.ingest", "--check", **absent)
    assert (done.returncode, "FAIL  broker" in done.stdout) == (1, True)


def test_a_check_of_detection_says_where_its_state_is(running: Backend) -> None:
    done = run("services.detection", "--check", **running.environment)
    assert (done.returncode, "state     kept in memory" in done.stdout) == (0, True)
    absent = {"LAVENDER_DETECTION__STATE": f"redis://:secret@127.0.0.1:{free_port()}/0"}
    done = run("services.detection", "--check", **running.environment, **absent)
    assert (done.returncode, "FAIL  state" in done.stdout) == (1, True)
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("url", ["redis:/x", "redis://host:port/0", "redis://host/x", "file:///x"])
def test_an_address_of_a_state_that_is_none_is_refused(url: str) -> None:
    done = run("services.detection", LAVENDER_DETECTION__STATE=url)
    assert (done.returncode, "LAVENDER_DETECTION__STATE" in said(done)[-1]) == (2, True)


def test_a_detection_worker_is_healthy_and_ends_on_sigterm(running: Backend) -> None:
    port = free_port()
    environment = {**running.environment, "LAVENDER_DETECTION__LISTEN": f"127.0.0.1:{port}"}
    words = [sys.executable, "-m", "services.detection"]
    worker = Process("detection", words, running.folder, environment=environment)
    worker.start()
    try:
        held = "lavender_detection_state_partitions_held 16.0"
        running.wait_for(lambda: _answers(f"http://127.0.0.1:{port}/metrics", held))
        assert _answers(f"http://127.0.0.1:{port}/healthz", '"state": true')
    finally:
        assert worker.stop() == 0
    assert '"reason": "drained"' in worker.log()


def _answers(url: str, text: str) -> bool:
    try:
        return text in get(url)[1]
    except OSError:
        return False


async def test_credentials_that_are_refused_are_one_clear_line(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "broker", extra=USERS)
    await server.start()
    wrong = server.url.replace("nats://", "nats://ingest:wrong@")
    right = server.url.replace("nats://", "nats://ingest:right@")
    try:
        for words in (("services.ingest",), ("services.ingest", "--check")):
            done = await trio.to_thread.run_sync(partial(run, *words, LAVENDER_BROKER__URL=wrong))
            lines = said(done) or done.stdout.splitlines()
            text = next(line for line in lines if "broker" in line or "refuse" in line)
            assert done.returncode == (1 if "--check" in words else 71)
            assert "wrong" not in done.stdout + done.stderr
            assert "refuse" in text or "credentials" in text.lower()
        done = await trio.to_thread.run_sync(
            partial(run, "services.ingest", "--check", LAVENDER_BROKER__URL=right)
        )
        assert done.returncode == 0, done.stdout
        assert "right" not in done.stdout + done.stderr
    finally:
        await server.stop()


def test_a_store_that_is_not_there_has_no_ledger(tmp_path: Path) -> None:
    absent = tmp_path / "absent.db"
    done = run("services.ledger", LAVENDER_STORE__URL=f"sqlite:{absent}")
    assert (done.returncode, done.stdout) == (74, "")
    assert f"{absent}: there is no such store" in said(done)[-1]
    assert not absent.exists()


def test_a_time_that_is_none_is_refused() -> None:
    done = run("services.ledger", "--since", "yesterday")
    assert done.returncode == 2
    assert "'yesterday' is no time: 90m, 2d" in done.stderr


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own, on loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics_are_served(running: Backend) -> None:
    port = free_port()
    service = running.services["telemetry_writer"]
    service._environment["LAVENDER_TELEMETRY_WRITER__LISTEN"] = f"127.0.0.1:{port}"
    service.start()

    def healthy() -> Any:
        try:
            status, body = get(f"http://127.0.0.1:{port}/healthz")
        except OSError:
            return None
        return status == 200 and json.loads(body)

    parts = {"telemetry_progress": True, "invalid_progress": True}
    found = running.wait_for(healthy)
    assert found == {"status": "ok", "broker": True, "store": True, **parts}
    status, text = get(f"http://127.0.0.1:{port}/metrics")
    assert status == 200
    assert "lavender_telemetry_writer_rows 0.0" in text
    assert 'lavender_actor_handled{name="telemetry_writer"}' in text
    running.broker.kill()
    running.wait_for(lambda: get(f"http://127.0.0.1:{port}/healthz")[0] == 503)
    assert service.stop() == 0


def test_a_service_waits_for_its_broker_and_ends_on_sigterm(tmp_path: Path) -> None:
    with backend(tmp_path) as absent:
        service = absent.services["ingest"]
        service.start()
        absent.wait_for(lambda: "cannot be reached" in service.log())
        absent.broker.start()
        absent.wait_for(lambda: "broker connected" in service.log())
        assert service.stop() == 0
        assert '"reason": "drained"' in service.log()


def test_a_stack_whose_port_is_taken_says_so_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("services.stack", "--data", str(tmp_path), LAVENDER_STACK__BROKER_PORT=port)
    assert done.returncode == 71
    (line,) = [each for each in said(done) if "warning" not in each]
    assert f"127.0.0.1:{port}: address already in use" in line


def test_a_second_stack_on_one_folder_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "LAVENDER_STACK__BROKER_PORT": "0"}
    words = [sys.executable, "-m", "services.stack", "--data", str(tmp_path / "data")]
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as first:
        try:
            assert first.stderr is not None
            for line in first.stderr:
                if b"backend is running" in line:
                    break
            done = run(
                "services.stack", "--data", str(tmp_path / "data"), LAVENDER_STACK__BROKER_PORT="0"
            )
            assert done.returncode == 73
            assert "another stack uses it" in said(done)[-1]
        finally:
            first.send_signal(signal.SIGTERM)
            first.communicate(timeout=20)
        assert first.returncode == 0


def test_a_stack_that_is_killed_leaves_no_broker(tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "LAVENDER_STACK__BROKER_PORT": str(port)}
    words = [sys.executable, "-m", "services.stack", "--data", str(tmp_path / "data")]
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"backend is running" in line:
                break
        process.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                (local_key.RUN / f"{port}.seed").unlink(missing_ok=True)
                return
    raise AssertionError("the broker outlived its stack")
