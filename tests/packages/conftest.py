"""Root, Debian and its tools, which are installed if need be; where they lack it is a failure."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages.machine import ROOT, Machine, debootstrap


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.packages)


@pytest.fixture(scope="session")
def built() -> Path:
    """The Debian package; beside it lie wheels and bill of materials."""
    words = ("make", "--silent", "deb")
    subprocess.run(words, cwd=ROOT, check=True)
    (package,) = (ROOT / "dist").glob("lavender_*.deb")
    return package


@pytest.fixture(scope="session")
def machine(built: Path) -> Iterator[Machine]:
    """A machine without Lavender; whoever installs it there removes it again."""
    subprocess.run([ROOT / "docker" / "setup-packages", "debootstrap"], check=True)
    with tempfile.TemporaryDirectory(prefix="lavender-machine-", dir="/var/tmp") as name:
        folder = Path(name) / "root"
        debootstrap(folder)
        made = Machine(folder)
        try:
            made.boot()
            yield made
        finally:
            made.stop()
