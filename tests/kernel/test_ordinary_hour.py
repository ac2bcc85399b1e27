"""An ordinary hour raises nothing, and nothing serious with every public rule in force."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.kernel.endpoint import ROOT, Line, endpoint
from tests.kernel.hour import CONTROL, DONE, HOUR, REMOVE, Hour, installed
from tests.services.detection.sigma.evaluator import corpora

FOLDER = corpora() / "sigma-linux"


class Recorded(msgspec.Struct):
    """The hour, as an agent saw it."""

    path: Path
    events: list[Line]
    alerts: list[Line]
    doing: dict[tuple[int, int], str]
    """The activity that a process belongs to."""

    def raised(self, alerts: list[Line]) -> dict[str, list[str]]:
        """What these alerts say, by the activity that they are about."""
        found: dict[str, list[str]] = {}
        for alert in alerts:
            activity = self.doing.get((alert["pid"], alert["start_ns"]))
            if activity is not None:
                words = (
                    f"{alert['severity']} {alert['rule']}: {alert['detail']} {alert['ancestry']}"
                )
                found.setdefault(activity, []).append(words)
        return found


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    """The shipped configuration, but for the writes: they are delivered, for the public rules."""
    with tempfile.TemporaryDirectory(prefix="lavender-hour-") as name:
        hour, path = Hour(Path(name)), Path(name) / "recording"
        before = installed()
        with endpoint(record=path, LAVENDER_FILTERS__OPEN_EVENTS="written") as running:
            try:
                for activity, script in HOUR.items():
                    hour.do(activity, script)
            finally:
                added = sorted(installed() - before)
                if added:
                    hour.do("a package removal", REMOVE, *added)
            hour.do(CONTROL, "cat /etc/shadow > /dev/null")
            assert running.stop() == 0
            assert running.stopped()["lost_in_kernel"] == 0
            assert running.recording is not None
            events = running.recording.refresh()
        hour.close()
        yield Recorded(path, events, running.alerts, hour.owners(events))


def test_an_ordinary_hour_raises_nothing(recorded: Recorded) -> None:
    raised = recorded.raised(recorded.alerts)
    assert raised.pop(CONTROL, None), "alerts are not found by their process"
    assert not raised

    programs = {
        event["exe"].rpartition("/")[2]
        for event in recorded.events
        if event["type"] == "exec" and (event["pid"], event["start_ns"]) in recorded.doing
    }
    assert programs >= DONE


def replayed(recorded: Recorded, folder: Path) -> list[Line]:
    """The alerts of an agent that replays the hour with Sigma's rules of medium and above."""
    (folder / "rules").mkdir()
    shutil.copyfile(ROOT / "lavender.toml", folder / "lavender.toml")
    environment = {
        **os.environ,
        "LAVENDER_CONFIG": str(folder / "lavender.toml"),
        "LAVENDER_RULES__MIN_LEVEL": "medium",
    }
    compiled = folder / "rules" / "sigma.json"
    words = ["services.detection", "rules", "compile", str(FOLDER), "--output", str(compiled)]
    subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=environment, check=True)
    words = ["actors.agent", "--replay", str(recorded.path)]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith(b"{")]
    return [line for line in lines if line.get("type") == "alert"]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the Sigma corpus is not here")
def test_with_every_public_rule_an_ordinary_hour_raises_nothing_serious(
    recorded: Recorded, tmp_path: Path
) -> None:
    alerts = replayed(recorded, tmp_path)
    levels = {alert["level"] for alert in alerts}
    assert "medium" in levels, "the rules are not in force"
    serious = [alert for alert in alerts if alert["level"] in {"high", "critical"}]
    raised = recorded.raised(serious)
    assert not raised
    assert not recorded.raised([a for a in alerts if a["severity"] in {"HIGH", "CRITICAL"}])
