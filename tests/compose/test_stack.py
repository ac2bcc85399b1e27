"""The stack of docker-compose.yml, brought up for real. The tests go in this order."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.compose.engine import ROOT, EngineError
from tests.compose.stack import AGENT_ID, SERVICES, Stack, execute
from tests.documents.extract import shown

EXECS = 150
AGENT_USER = 10006
OWN = {
    "nats": "nats/server.key",
    "timescaledb": "timescaledb/postgres",
    "redis": "redis/users.acl",
    "ingest": "ingest/nkey.seed",
    "telemetry-writer": "telemetry-writer/database",
    "detection": "detection/redis",
    "alert-writer": "alert-writer/database",
}
NOT_HERE = ("docker compose logs", "git pull", "docker compose down", "docker compose -f")
BUILT = ("nats", "ingest", "telemetry-writer", "detection", "alert-writer", "agent", "credentials")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(stack: Stack, service: str) -> None:
    found = stack.inspect(service)
    host, process = found["HostConfig"], status_of(found["State"]["Pid"])
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert process["NoNewPrivs"] == "1"
    assert "0" not in process["Uid"].split()
    if service == "agent":
        assert set(process["Uid"].split()) == {str(AGENT_USER)}
        assert int(process["CapEff"], 16) == int(process["CapPrm"], 16) == 0
        assert process["Seccomp"] == "2"
    else:
        assert host["CapAdd"] is None
    assert int(process["CapBnd"], 16) == 0
    addresses = [each["HostIp"] for ports in host["PortBindings"].values() for each in ports]
    assert addresses == (["127.0.0.1"] if service == "nats" else [])


@pytest.mark.parametrize("service", OWN)
def test_a_service_reads_its_own_secrets_and_no_others(stack: Stack, service: str) -> None:
    for owner, name in OWN.items():
        path = f"/run/lavender/{name}"
        if owner == service:
            assert stack.run_in(service, "cat", path)
        else:
            with pytest.raises(EngineError, match="Permission denied"):
                stack.run_in(service, "cat", path)
    with pytest.raises(EngineError):
        stack.run_in(service, "touch", "/run/lavender/ca.crt")


def test_the_agent_sees_its_own_secrets_and_no_others(stack: Stack) -> None:
    """It has the right to read every file, so none of another's is there."""
    words = ("sh", "-c", "find / -xdev -name '*.seed' -o -name users.acl; ls /run/lavender")
    assert stack.run_in("agent", *words).split() == ["ca.crt", "nkey.seed"]
    mounts = {each["Destination"]: each for each in stack.inspect("agent")["Mounts"]}
    assert mounts["/run/lavender"]["Name"].endswith("agent-credentials")
    assert not mounts["/run/lavender"]["RW"]
    assert not any(each.get("Name", "").endswith("_credentials") for each in mounts.values())


@pytest.mark.parametrize("service", BUILT)
def test_there_is_no_secret_in_an_image(stack: Stack, service: str) -> None:
    names = ("-name '*.seed'", "-name '*.nk'", "-path '/run/lavender/*'", "-path '/authority/*'")
    find = f"find / -xdev \\( {' -o '.join(names)} \\) -print"
    words = ("run", "--rm", "--network=none", "--user=0", "--entrypoint=sh", f"lavender/{service}")
    assert stack.engine.run(*words, "-c", find) == ""


def test_an_exec_and_an_alert_travel_from_the_agents_container_to_the_database(
    stack: Stack,
) -> None:
    marker = f"marker-{time.time_ns()}"
    stack.run_in("agent", "sh", "-c", f"cat /etc/shadow /dev/null/{marker} >/dev/null 2>&1 || true")
    execs = f"SELECT pid FROM exec_events WHERE '/dev/null/{marker}' = ANY (argv)"  # noqa: S608 - our own words
    pid = stack.wait_for(lambda: stack.sql(execs))[0]
    alerts = f"SELECT rule, agent_id FROM alerts WHERE event_pid = {pid}"  # noqa: S608 - our own words
    found = stack.wait_for(lambda: stack.sql(alerts))
    assert f"T1003 [Sensitive file read]|{AGENT_ID}" in found


def seen(stack: Stack, marker: str) -> list[int]:
    query = f"SELECT argv[2] FROM exec_events WHERE argv[2] LIKE '{marker}-%'"  # noqa: S608 - our own words
    return sorted(int(line.rpartition("-")[2].rstrip(".")) for line in stack.sql(query))


def assert_nothing_lost(account: dict[str, Any]) -> None:
    for name in ("lost", "dropped", "missing", "abandoned", "unpublished", "alerts_dropped"):
        assert account[name] == 0, account
    for name in ("evicted", "rejected", "invalid_messages"):
        assert account[name] == {}, account
    assert account["rows"] == account["stored"] > 0
    assert account["alerts_stored"] >= account["alerts_raised"] > 0


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_that_is_killed_comes_back_and_nothing_is_lost(
    stack: Stack, service: str
) -> None:
    marker = f"{service}-{time.time_ns()}"
    running = execute(marker, times=EXECS)
    time.sleep(0.5)
    stack.kill(service)
    assert running.wait(60) == 0
    stack.wait_for(lambda: len(seen(stack, marker)) >= EXECS)
    assert seen(stack, marker) == list(range(EXECS))
    account = stack.balanced()
    assert_nothing_lost(account)
    assert account["epochs"] == (2 if service == "agent" else 1)


def test_the_readmes_commands_work(stack: Stack, tmp_path: Path) -> None:
    before = stack.inspect("credentials")["Id"]
    for command in shown(ROOT / "docker/compose/README.md"):
        if not command.text.startswith(NOT_HERE):
            stack.shell(command.text, tmp_path)
    assert stack.inspect("credentials")["Id"] != before
    assert (tmp_path / "lavender.dump").stat().st_size
    stack.wait_until_healthy()
    marker = f"readme-{time.time_ns()}"
    execute(marker, times=1).wait(60)
    stack.wait_for(lambda: seen(stack, marker))
    stack.balanced()


def test_taken_down_nothing_is_left(stack: Stack) -> None:
    pids = [stack.inspect(service)["State"]["Pid"] for service in SERVICES]
    bridges = [f"br-{each}" for each in stack.engine.run("network", "ls", "--quiet").split()]
    stack.down()
    for kind in ("container", "volume"):
        assert stack.engine.run(kind, "ls", "--quiet", *(["--all"] * (kind == "container"))) == ""
    networks = stack.engine.run("network", "ls", "--format", "{{.Name}}").split()
    assert set(networks) <= {"bridge", "host", "none"}
    assert not any(Path("/sys/class/net", bridge).exists() for bridge in bridges)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not Path(f"/sys/fs/bpf/lavender/{AGENT_ID}").exists()
    stack.engine.stop()
    assert stack.engine.mounts() == []
    folder = str(stack.engine.folder)
    assert not [
        process
        for process in Path("/proc").glob("[0-9]*")
        if folder in _command(process) and process.name != str(os.getpid())
    ]


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:  # gone meanwhile
        return ""
