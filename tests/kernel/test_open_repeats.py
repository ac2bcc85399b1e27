"""Repeated opens, as shipped: the same one by the same process within a second is told once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint, endpoint
from tests.kernel.workload import run

READ = "T1003 [Sensitive file read]"


@pytest.fixture(scope="module")
def shipped() -> Iterator[Endpoint]:
    """An agent exactly as shipped."""
    with endpoint() as running:
        yield running
        assert running.stop() == 0
        assert running.stopped()["probes"]["open"]["suppressed"] >= 49


def test_repeats_are_one_alert(shipped: Endpoint, doer: Path, secret: Path) -> None:
    pid, _ = run(doer, *["open", str(secret)] * 50)
    assert shipped.rules_of(pid) >= {READ}
    assert len(shipped.alerts_about(pid=pid, rule=READ)) == 1


def test_a_program_cannot_hide_behind_what_its_process_ran_before(
    shipped: Endpoint, doer: Path, tmp_path: Path
) -> None:
    """Its history a shell may read; what it executes may not."""
    history = tmp_path / ".bash_history"
    history.write_text("ls\n")
    script = ': < "$1"; exec "$2" open "$1"'
    pid, code = run("/bin/bash", "-c", script, "bash", history, doer)
    assert code == 0
    assert shipped.alert(READ, pid)["exe"] == str(doer)


def test_a_read_cannot_hide_behind_a_look(shipped: Endpoint, calls: Path, secret: Path) -> None:
    pid, code = run(calls, "o_path", secret)
    assert code == 0
    assert shipped.alert(READ, pid)
