"""Lavender installed in each way there is, run by systemd, and removed without a trace."""

from __future__ import annotations

import re
import shutil
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.version import VERSION
from tests.packages.machine import ROOT, Machine, wait_for

AGENT, STACK = "lavender-agent.service", "lavender-stack.service"
CONFIG = "/etc/lavender/lavender.toml"
WORST_EXPOSURE = 4.0
"""Of 10, as `systemd-analyze security` reckons; 9.6 is a unit without any protection."""
_DROP_IN = f"/run/systemd/system/{AGENT}.d"
_QUICK = (
    f"mkdir -p {_DROP_IN} && printf '[Service]\\nWatchdogSec=4\\n"
    f"Environment=LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS=1\\n' > {_DROP_IN}/quick.conf"
)


def make(*words: str) -> str:
    """Run make in this checkout; what it printed."""
    command = ("make", "--silent", *words)
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@contextmanager
def installed(machine: Machine, *, put: str, remove: str) -> Iterator[None]:
    """Lavender is there, and then nothing of it is."""
    before = machine.files()
    machine.shell(put)
    try:
        yield
    finally:
        machine.shell(remove)
    assert machine.files() ^ before == set()
    assert "lavender" not in machine.run("cat", "/etc/passwd", "/etc/group", "/etc/shadow")
    assert machine.answers("systemctl", "list-units", "--all", "--no-legend", "lavender*") == ""


@pytest.fixture(scope="module")
def by_make(machine: Machine) -> Iterator[Machine]:
    put, remove = "cd /src && docker/install put", "cd /src && docker/install remove"
    with installed(machine, put=put, remove=remove):
        yield machine


def main_pid(machine: Machine) -> str:
    return machine.state(AGENT, "MainPID")


def balanced(machine: Machine) -> bool:
    """Whether the ledger of the machine's own store balances."""
    url = "sqlite:/var/lib/lavender-backend/lavender.db"
    said = machine.answers("env", f"LAVENDER_STORE__URL={url}", "lavender", "ledger")
    return "  balanced" in said


def test_make_install_and_uninstall_leave_a_folder_as_it_was(tmp_path: Path) -> None:
    destination = f"DESTDIR={tmp_path}"
    make("install", destination)
    for name in ("usr/local/bin/lavender-agent", "usr/local/bin/lavender", CONFIG[1:]):
        assert (tmp_path / name).is_file()
    units = {path.name for path in (tmp_path / "usr/local/lib/systemd/system").iterdir()}
    assert units == {path.name for path in (ROOT / "docker" / "systemd").iterdir()}
    make("uninstall", destination)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_its_owner_has_changed_stays(tmp_path: Path) -> None:
    words = ("install", f"DESTDIR={tmp_path}")
    make(*words)
    config = tmp_path / CONFIG[1:]
    config.write_text(config.read_text().replace("dry_run = true", "dry_run = false"))
    assert f"kept {config}" in make(*words)
    assert "dry_run = false" in config.read_text()


def test_wheels_install_and_run(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "environment", with_pip=True)
    programs = tmp_path / "environment" / "bin"
    wheels = str(built.parent / "wheels")
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--find-links", wheels, "lavender[services]"], check=True)
    for words, says in (
        (["lavender-agent", "--version"], f"Lavender {VERSION}"),
        (["lavender-agent", "--show-topology"], "correlator"),
        (["lavender", "--version"], f"Lavender {VERSION}"),
        (["lavender", "detection", "rules", "list"], "reverse-shell"),
    ):
        command = [str(programs / words[0]), *words[1:]]
        done = subprocess.run(command, cwd="/", check=True, capture_output=True, text=True)
        assert says in done.stdout


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
    user = by_make.run("stat", "-c", "%U", f"/proc/{main_pid(by_make)}").strip()
    assert user == "lavender"
    assert "/sys/fs/bpf/lavender" in by_make.files()
    assert "nothing is pinned" not in by_make.journal(AGENT)
    wait_for(lambda: balanced(by_make))


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
    """Against the broker that the other unit leaves behind: its data, by nats-server itself."""
    by_make.run("systemctl", "stop", STACK)
    serve = "systemd-run --unit=broker /usr/local/lib/lavender/bin/nats-server -js -sd /tmp/broker"
    by_make.shell(serve)
    by_make.run("systemctl", "start", "lavender-backend.target")
    names = ("ingest", "telemetry_writer", "detection", "alert_writer")
    for name in names:
        unit = f"lavender@{name}.service"
        wait_for(lambda unit=unit: by_make.state(unit, "ActiveState") == "active")  # type: ignore[misc]
    by_make.run("systemctl", "stop", "lavender-backend.target", "broker")
    for name in names:
        assert by_make.state(f"lavender@{name}.service", "ActiveState") == "inactive"


def test_a_debian_package_is_installed_upgraded_and_purged(machine: Machine, built: Path) -> None:
    package = f"/{built.name}"
    shutil.copy(built, machine.folder / built.name)
    with installed(machine, put=f"dpkg --install {package}", remove="dpkg --purge lavender"):
        assert machine.run("lavender", "--version") == f"Lavender {VERSION}\n"
        machine.run("systemctl", "enable", "--now", STACK, AGENT)
        wait_for(lambda: balanced(machine))
        before = main_pid(machine)
        machine.run("sed", "-i", "s/^dry_run = true/dry_run = false/", CONFIG)
        machine.run("dpkg", "--install", package)
        assert main_pid(machine) not in {before, "0"}
        assert "dry_run = false" in machine.run("cat", CONFIG)
        wait_for(lambda: balanced(machine))
        machine.run("dpkg", "--remove", "lavender")
        assert machine.state(AGENT, "ActiveState") == "inactive"
        assert machine.run("ls", "/etc/lavender") == "lavender.toml\n"
