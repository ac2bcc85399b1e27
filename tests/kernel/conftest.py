"""Kernel tests need root and BTF; where CI requires the kernel, lacking them is a failure."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint, endpoint
from tests.kernel.workload import DOER, OPENER, Island, compile_c, island

ROOT = Path(__file__).resolve().parents[2]
REQUIRE = "TESTS_REQUIRE_KERNEL"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, and skip it where the kernel cannot be used."""
    usable = os.geteuid() == 0 and Path("/sys/kernel/btf/vmlinux").exists()
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            if not usable and os.environ.get(REQUIRE) != "1":
                item.add_marker(pytest.mark.skip(reason="needs root and BTF"))


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """Folder of compiled programs. Other users may look into it; pytest's own they may not."""
    with tempfile.TemporaryDirectory(prefix="lavender-tests-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def build(programs: Path) -> Callable[[str], Path]:
    """Compile C source, once."""
    return lambda source: compile_c(source, programs)


@pytest.fixture(scope="session")
def doer(programs: Path) -> Path:
    """The program that does what its arguments say."""
    return compile_c(DOER, programs, name="doer")


@pytest.fixture(scope="session")
def calls(programs: Path) -> Path:
    """The program that opens a file in the way its first argument names."""
    return compile_c(OPENER, programs, name="opener")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of our own that is on the shipped list of sensitive files."""
    path = tmp_path / "home" / ".ssh" / "id_rsa"
    path.parent.mkdir(parents=True)
    path.write_text("no key")
    return path


@pytest.fixture(scope="module")
def net() -> Iterator[Island]:
    """A network namespace with an address of our own that is not loopback."""
    with island() as made:
        yield made


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An agent with the shipped configuration that records; every open is delivered.

    What the tests start has a lineage of its own: pytest counts as a login does.
    """
    record = tmp_path_factory.mktemp("watched") / "events"
    shipped = tomllib.loads((ROOT / "lavender.toml").read_text())
    launchers = [*shipped["filters"]["safe_shell_launchers"], "python3*"]
    with endpoint(
        record=record,
        LAVENDER_FILTERS__OPEN_EVENTS="all",
        LAVENDER_AGENT__OPEN_REPEAT_SECS="0",
        LAVENDER_FILTERS__SAFE_SHELL_LAUNCHERS=json.dumps(launchers),
    ) as running:
        yield running
        assert running.stop() == 0
        assert not running.malformed
        assert running.stopped()["lost_in_kernel"] == 0
