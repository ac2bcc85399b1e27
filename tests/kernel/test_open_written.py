"""``open_events = "written"``: sensitive files, and whatever is opened to be written or created."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EACCES, ENOENT, EROFS
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint, assert_balanced, endpoint
from tests.kernel.workload import python, run

OPEN = "import os,sys; os.open(sys.argv[1], eval(sys.argv[2]), 0o600)"
"""Opens the file of its first argument with the flags of its second."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An agent that delivers writes, and records."""
    record = tmp_path_factory.mktemp("written") / "events"
    with endpoint(record=record, LAVENDER_FILTERS__OPEN_EVENTS="written") as running:
        yield running
        assert running.stop() == 0
        assert running.stopped()["lost_in_kernel"] == 0
        assert_balanced(running.stopped()["probes"])


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        ("os.O_WRONLY", os.O_WRONLY),
        ("os.O_RDWR", os.O_RDWR),
        ("os.O_WRONLY|os.O_CREAT|os.O_EXCL", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        ("os.O_RDONLY|os.O_CREAT", os.O_RDONLY | os.O_CREAT),
    ],
)
def test_a_file_opened_to_be_written_or_created_is_delivered(
    watched: Endpoint, tmp_path: Path, flags: str, known: int
) -> None:
    path = tmp_path / "file"
    if "EXCL" not in flags:
        path.touch()
    pid, code = python(OPEN, str(path), flags)
    assert code == 0
    event = watched.event(type="open", pid=pid, filename=str(path))
    assert event["flags"] & ~os.O_CLOEXEC == known
    assert (event["error"], event["resolved"]) == (0, True)


def test_creat_is_seen_too(watched: Endpoint, calls: Path, tmp_path: Path) -> None:
    pid, code = run(calls, "creat", tmp_path / "made")
    assert code == 0
    event = watched.event(type="open", pid=pid, filename=str(tmp_path / "made"))
    assert event["flags"] == os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def test_a_write_that_failed_is_delivered_with_its_errno(watched: Endpoint) -> None:
    pid, _ = python(OPEN, "/nowhere/at/all", "os.O_WRONLY|os.O_CREAT")
    assert watched.event(type="open", pid=pid, filename="/nowhere/at/all")["error"] == ENOENT
    pid, _ = python(OPEN, "/sys/kernel/btf/vmlinux", "os.O_WRONLY")
    failed = watched.event(type="open", pid=pid, filename="/sys/kernel/btf/vmlinux")
    assert failed["error"] in {EROFS, EACCES}


def test_reading_and_looking_are_filtered(watched: Endpoint, doer: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for flags in ("os.O_RDONLY", "os.O_PATH", "os.O_RDONLY|os.O_DIRECTORY"):
        path = tmp_path if "DIRECTORY" in flags else tmp_path / "file"
        pid, code = python(OPEN, str(path), flags)
        assert code == 0
        watched.settle()
        assert not watched.seen(type="open", pid=pid, filename=str(path))
    pid, _ = run(doer, "open", "/nowhere/to/read")
    watched.settle()
    assert not watched.seen(type="open", pid=pid, filename="/nowhere/to/read")


def test_reading_a_sensitive_file_is_still_an_alert(
    watched: Endpoint, doer: Path, secret: Path
) -> None:
    pid, _ = run(doer, "open", secret)
    assert str(secret) in watched.alert("T1003 [Sensitive file read]", pid)["detail"]
