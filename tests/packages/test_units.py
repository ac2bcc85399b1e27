"""Installed by `make install`, run by systemd, and removed without a trace."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.packages.machine import AGENT, STACK, Machine, wait_for

SERVICES = ("ingest", "telemetry_writer", "detection", "alert_writer")
WORST_EXPOSURE = 4.0
"""Of 10, as `systemd-analyze security` reckons; 9.6 is a unit without any protection."""
_BROKER = "jetstream { store_dir: /tmp/broker, max_file_store: 64GB }"
_DROP_IN = f"/run/systemd/system/{AGENT}.d"
_QUICK = (
    f"mkdir -p {_DROP_IN} && printf '[Service]\\nWatchdogSec=4\\n"
    f"Environment=LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS=1\\n' > {_DROP_IN}/quick.conf"
)


@pytest.fixture(scope="module")
def by_make(machine: Machine) -> Iterator[Machine]:
    put, remove = "cd /src && docker/install put", "cd /src && docker/install remove"
    with machine.installed(put=put, remove=remove):
        yield machine


def test_units_are_sound_and_sandboxed(by_make: Machine) -> None:
    units = (AGENT, STACK, "lavender@ingest.service", "lavender-backend.target")
    assert by_make.run("systemd-analyze", "verify", *units) == ""
    for unit in units[:3]:
        said = by_make.run("systemd-analyze", "--no-pager", "security", unit)
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert found
        assert float(found[1]) < WORST_EXPOSURE


def test_systemd_runs_agent_and_backend(by_make: Machine) -> None:
    by_make.run("systemctl", "start", STACK, AGENT)
    assert by_make.state(AGENT, "ActiveState") == by_make.state(STACK, "ActiveState") == "active"
    assert by_make.state(AGENT, "StatusText") == "watching"
    user = by_make.run("stat", "-c", "%U", f"/proc/{by_make.state(AGENT, 'MainPID')}").strip()
    assert user == "lavender"
    assert "/sys/fs/bpf/lavender" in by_make.files()
    assert "nothing is pinned" not in by_make.journal(AGENT)
    wait_for(by_make.balanced)


def test_an_agent_that_hangs_is_replaced_by_one_that_reads_on(by_make: Machine) -> None:
    by_make.shell(_QUICK)
    by_make.run("systemctl", "daemon-reload")
    by_make.run("systemctl", "restart", AGENT)
    by_make.run("systemctl", "kill", "--signal=STOP", AGENT)
    wait_for(lambda: by_make.state(AGENT, "NRestarts") == "1")
    wait_for(lambda: by_make.state(AGENT, "ActiveState") == "active")
    assert "Failed with result 'watchdog'" in by_make.journal(AGENT)
    assert "took over the probes of an agent that crashed" in by_make.journal(AGENT)
    by_make.run("rm", "-r", _DROP_IN)
    by_make.run("systemctl", "daemon-reload")


def test_the_services_run_as_units_of_their_own(by_make: Machine) -> None:
    by_make.run("systemctl", "stop", STACK)
    by_make.shell(f"echo '{_BROKER}' > /tmp/broker.conf")
    server = "/usr/local/lib/lavender/bin/nats-server"
    by_make.run("systemd-run", "--unit=broker", server, "--config", "/tmp/broker.conf")
    by_make.run("systemctl", "start", "lavender-backend.target")
    units = [f"lavender@{name}.service" for name in SERVICES]
    wait_for(lambda: all(by_make.state(unit, "ActiveState") == "active" for unit in units))
    by_make.run("systemctl", "stop", "lavender-backend.target", "broker")
    assert {by_make.state(unit, "ActiveState") for unit in units} == {"inactive"}
