"""The Debian package."""

from __future__ import annotations

import shutil
from pathlib import Path

from actors.version import VERSION
from tests.packages.machine import AGENT, STACK, Machine, wait_for

CONFIG = "/etc/lavender/lavender.toml"


def test_a_debian_package_is_installed_upgraded_and_purged(machine: Machine, built: Path) -> None:
    package = f"/{built.name}"
    shutil.copy(built, machine.folder / built.name)
    with machine.installed(put=f"dpkg --install {package}", remove="dpkg --purge lavender"):
        assert machine.run("lavender", "--version") == f"Lavender {VERSION}\n"
        machine.run("systemctl", "enable", "--now", STACK, AGENT)
        wait_for(machine.balanced)
        before = machine.state(AGENT, "MainPID")
        machine.run("sed", "-i", "s/^dry_run = true/dry_run = false/", CONFIG)
        machine.run("dpkg", "--install", package)
        assert machine.state(AGENT, "MainPID") not in {before, "0"}
        assert "dry_run = false" in machine.run("cat", CONFIG)
        wait_for(machine.balanced)
        machine.run("dpkg", "--remove", "lavender")
        assert machine.state(AGENT, "ActiveState") == "inactive"
        assert machine.run("ls", "/etc/lavender") == "lavender.toml\n"
