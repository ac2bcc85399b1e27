"""What is put where: by `make install` into a folder, and by wheels into an environment."""

from __future__ import annotations

import json
import re
import subprocess
import venv
from pathlib import Path

from actors.version import VERSION
from tests.packages.machine import ROOT

CONFIG = "etc/lavender/lavender.toml"


def make(*words: str) -> str:
    """Run make in this checkout; what it printed."""
    command = ("make", "--silent", *words)
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_make_install_and_uninstall_leave_a_folder_as_it_was(tmp_path: Path) -> None:
    destination = f"DESTDIR={tmp_path}"
    make("install", destination)
    for name in ("usr/local/bin/lavender-agent", "usr/local/bin/lavender", CONFIG):
        assert (tmp_path / name).is_file()
    units = {path.name for path in (tmp_path / "usr/local/lib/systemd/system").iterdir()}
    assert units == {path.name for path in (ROOT / "docker" / "systemd").iterdir()}
    make("uninstall", destination)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_its_owner_has_changed_stays(tmp_path: Path) -> None:
    words = ("install", f"DESTDIR={tmp_path}")
    make(*words)
    config = tmp_path / CONFIG
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


def test_the_bill_of_materials_is_what_is_installed() -> None:
    make("sbom", "wheels")
    bill = json.loads((ROOT / "dist" / "lavender.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "lavender")
    listed = {normal(each["name"]) for each in bill["components"]}
    wheels = {normal(path.name.split("-")[0]) for path in (ROOT / "dist" / "wheels").glob("*.whl")}
    assert listed == wheels - {"lavender"}


def normal(name: str) -> str:
    """A package's name as they are compared."""
    return re.sub("[-_.]+", "-", name).lower()
