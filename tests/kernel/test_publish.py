"""The real agent publishes into a real backend: what a shell does becomes rows with lineage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
import trio

from actors.version import VERSION
from tests.faults.backend import Backend, Process, backend
from tests.kernel.endpoint import endpoint
from transport import local_key
from transport.crossing import call, open_loop
from transport.messages import Heartbeat


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Backend]:
    with backend(tmp_path) as made:
        made.start()
        yield made


def published(running: Backend, **overrides: str) -> dict[str, Any]:
    return {
        "LAVENDER_PUBLISH__ENABLED": "true",
        "LAVENDER_PUBLISH__SPOOL": str(running.folder / "spool"),
        "LAVENDER_AGENT__NATS_URL": running.url,
        "LAVENDER_AGENT__AGENT_ID": "publish-tests",
        "LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS": "0.5",
        **overrides,
    }


@pytest.fixture(autouse=True)
def _others_may_pass(tmp_path: Path) -> None:
    """The agent gives root up: it must get through to its spool."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp/") and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o011)


def exec_rows(running: Backend, marker: str) -> list[tuple[str, str, str]]:
    query = "SELECT argv, ancestry, event_id FROM exec_events WHERE argv LIKE "
    return [(str(a), str(b), str(c)) for a, b, c in running.rows(f"{query}'%{marker}%'")]


def test_what_a_shell_runs_is_a_row_with_arguments_and_lineage(running: Backend) -> None:
    with endpoint(**published(running)) as agent:
        script = "curl -s --max-time 1 http://127.0.0.1:9/marker-4711; true"
        subprocess.run(["/bin/bash", "-c", script], check=True)
        rows = running.wait_for(
            lambda: [r for r in exec_rows(running, "marker-4711") if "-s" in r[0]]
        )
        (argv, ancestry, _), *_ = [row for row in rows if json.loads(row[0])[0] == "curl"]
        assert json.loads(argv)[1:3] == ["-s", "--max-time"]
        assert ancestry.endswith("=>bash=>curl")
        connects = running.wait_for(
            lambda: running.rows(
                "SELECT dest_ip, dest_port FROM connect_events WHERE comm = 'curl'"
            )
        )
        assert ("127.0.0.1", 9) in [(str(ip), int(port)) for ip, port in connects]
        assert agent.stop() == 0
    running.wait_for(lambda: not running.account("publish-tests")["problems"])
    account = running.account("publish-tests")
    assert account["seeds"] > 1
    assert account["stored"] == account["delivered"] + account["seeds"]
    assert account["in_rings"] == account["abandoned"] == 0


async def heartbeats(url: str, *, count: int) -> list[Heartbeat]:
    """What whoever listens on core NATS hears of an agent."""
    heard: list[bytes] = []

    async def listen() -> None:
        client = await nats.connect(url)
        subscription = await client.subscribe("heartbeat.>")
        while len(heard) < count:
            heard.append((await subscription.next_msg(timeout=20)).data)
        await client.close()

    async with open_loop():
        await call(listen)
    return [msgspec.json.decode(each, type=Heartbeat) for each in heard]


def test_heartbeats_say_how_the_agent_stands(running: Backend) -> None:
    running.wait_for(lambda: "broker connected" in running.services["ingest"].log())
    with endpoint(**published(running)) as agent:
        first, second = trio.run(partial(heartbeats, running.url, count=2))
        assert agent.stop() == 0
    assert (second.agent_id, second.tenant_id, second.version) == ("publish-tests", "dev", VERSION)
    assert second.uptime_secs > first.uptime_secs
    assert second.counters.probes["exec"].seen >= first.counters.probes["exec"].seen
    assert second.counters.load_id != "0" * 16
    assert len(second.policy_version) == 16
    assert "actors" in second.status


def test_an_alert_says_what_it_could_not_see(running: Backend, secret: Path) -> None:
    with endpoint(**published(running)) as agent:
        subprocess.run([sys.executable, "-c", f"open({str(secret)!r}).read()"], check=True)
        query = "SELECT event_id, evidence, ancestry, alert_id FROM alerts WHERE rule LIKE 'T1003%'"
        (event_id, evidence, ancestry, _), *_ = running.wait_for(lambda: running.rows(query))
        assert "not_watching" in str(evidence)  # the agent had just been started
        assert "=>" in str(ancestry)
        opens = running.rows(f"SELECT filename FROM open_events WHERE event_id = '{event_id}'")  # noqa: S608 - our own
        assert [str(row[0]) for row in opens] == [str(secret)]
        assert agent.stop() == 0


def test_a_killed_agent_loses_and_repeats_nothing(running: Backend, programs: Path) -> None:
    """Executions go on while no agent runs; the next agent reads them from the rings."""
    total = 300
    script = f"for i in $(seq {total}); do /bin/true crash-$i; sleep 0.02; done"
    overrides = published(running)
    with endpoint(keep_pins=True, **overrides) as first:
        load = subprocess.Popen(["/bin/bash", "-c", script])
        time.sleep(2)
        first.process.kill()
        first.process.wait()
    time.sleep(0.5)
    with endpoint(**overrides) as second:
        load.wait(60)
        time.sleep(0.2)
        assert second.stop() == 0
    running.wait_for(lambda: len(exec_rows(running, '"crash-')) >= total)
    found = sorted(int(json.loads(argv)[1][6:]) for argv, _, _ in exec_rows(running, '"crash-'))
    assert found == list(range(1, total + 1))
    running.wait_for(lambda: not running.account("publish-tests")["problems"])
    account = running.account("publish-tests")
    assert account["epochs"] == 2
    assert account["lost"] == account["abandoned"] == account["in_rings"] == 0


def test_without_a_broker_the_agent_detects_and_its_spool_waits(
    tmp_path: Path, secret: Path
) -> None:
    with backend(tmp_path) as absent:
        overrides = published(absent)
        with endpoint(**overrides) as agent:
            subprocess.run([sys.executable, "-c", f"open({str(secret)!r}).read()"], check=True)
            agent.wait_for(lambda: agent.alerts)
            assert agent.stop() == 0
        absent.start()
        with endpoint(**overrides) as again:
            absent.wait_for(lambda: absent.count("alerts", agent="publish-tests"))
            assert again.stop() == 0


def test_the_stack_takes_what_an_agent_sends_without_more_configuration(tmp_path: Path) -> None:
    made = Backend(tmp_path)
    words = [sys.executable, "-m", "services.stack", "--data", str(tmp_path / "data")]
    environment = {"LAVENDER_STACK__BROKER_PORT": str(made.port)}
    stack = Process("stack", words, tmp_path, environment=environment)
    stack.start()
    made.database = tmp_path / "data" / "lavender.db"
    try:
        made.wait_for(lambda: "backend is running" in stack.log(), within_secs=20)
        with endpoint(**published(made)) as agent:
            subprocess.run(["/bin/true", "marker-0815"], check=True)
            made.wait_for(lambda: exec_rows(made, "marker-0815"))
            assert agent.stop() == 0
    finally:
        (local_key.RUN / f"{made.port}.seed").unlink(missing_ok=True)
        assert stack.stop() == 0, stack.log()
    keys = tmp_path / "data" / "nats" / "keys"
    assert {each.stat().st_mode & 0o777 for each in keys.iterdir()} == {0o600}
    assert "agents of this machine find their key" in stack.log()
