"""Sigma's rules and the built-in ones, fired by real processes through agent, broker and worker.

For each rule somebody does what it is about; then the store must have the worker's alert, and the
alert must name the process, its parent, and what the rule's author wrote: techniques and name.
The expectations are read from the rule files themselves, in the corpus, where it is.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from actors.detection.builtin import builtin_rules
from tests.faults.backend import Process, backend
from tests.kernel.deeds import OUTSIDE, Done, Stage, table
from tests.kernel.endpoint import endpoint
from tests.kernel.sigma_cases import BORE, RAN, WROTE
from tests.kernel.workload import DOER, Island, compile_c
from tests.services.detection.sigma.evaluator import corpora
from tests.shipped import shipped_for_all

FOLDER = corpora() / "sigma-linux"
COLUMNS = (
    *("rule_id", "event_pid", "event_comm", "ancestry", "techniques"),
    *("author", "level", "source", "processes"),
)
WAIT_SECS = 30
COMM = {"dash": "sh"}
"""What the kernel calls a program that was started by a link to it."""


@cache
def corpus() -> dict[str, dict[str, Any]]:
    """Every rule file, by the beginning of its id."""
    rules = (yaml.safe_load(path.read_text()) for path in FOLDER.rglob("*.yml"))
    return {rule["id"][:8]: rule for rule in rules}


class Heard(msgspec.Struct, frozen=True):
    """What came of it."""

    done: list[Done]
    alerts: list[dict[str, Any]]
    """Rows of the store."""

    def about(self, done: Done) -> list[dict[str, Any]]:
        """The alerts about something that was done, of the rule for which it was."""
        return [
            alert
            for alert in self.alerts
            if alert["rule_id"].startswith(done.rule_id) and is_beneath(alert, done.boundary)
        ]

    def of(self, rule_id: str) -> tuple[Done, dict[str, Any]]:
        """What was done for a rule, and the alert about it."""
        done = next(each for each in self.done if rule_id.startswith(each.rule_id))
        found = self.about(done)
        assert found, f"no alert of {rule_id}"
        return done, found[0]

    def is_whole(self) -> bool:
        """Whether there is an alert for everything for which there can be one."""
        return all(map(self.about, (each for each in self.done if can_fire(each))))


def can_fire(done: Done) -> bool:
    """Whether the rule is here at all."""
    return FOLDER.is_dir() or done.rule_id in {each.id for each in builtin_rules()}


def is_beneath(alert: dict[str, Any], boundary: int) -> bool:
    """Whether the process of an alert descends from a process."""
    return any(each["pid"] == boundary for each in alert["processes"][:-1])


@pytest.fixture(scope="module")
def stage(net: Island) -> Iterator[Stage]:
    net.add(OUTSIDE)
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="stage-") as folder,
        tempfile.TemporaryDirectory(dir="/tmp", prefix="stage-") as tmp,
    ):
        for each in (folder, tmp):
            Path(each).chmod(0o755)
        yield Stage(Path(folder), Path(tmp), compile_c(DOER, Path(folder), name="doer"), net)


@pytest.fixture(scope="module")
def heard(stage: Stage) -> Heard:
    """Everything is done once, under the eyes of an agent; a worker judges it."""
    with tempfile.TemporaryDirectory(prefix="lavender-sigma-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        return perform(stage, folder)


def perform(stage: Stage, folder: Path) -> Heard:
    shipped = shutil.copyfile(shipped_for_all(), folder / "worker.toml")
    with backend(folder) as made:
        worker = Process(
            "detection",
            [sys.executable, "-m", "services.detection"],
            folder,
            environment={
                "LAVENDER_CONFIG": str(shipped),
                "LAVENDER_BROKER__URL": made.url,
                "LAVENDER_RULES__FOLDER": str(FOLDER),
            },
        )
        del made.services["telemetry_writer"]
        made.services["detection"] = worker
        made.start()
        with endpoint(
            "--output",
            "none",
            LAVENDER_FILTERS__OPEN_EVENTS="written",
            LAVENDER_PUBLISH__ENABLED="true",
            LAVENDER_PUBLISH__ALERTS="false",
            LAVENDER_PUBLISH__SPOOL=str(folder / "spool"),
            LAVENDER_AGENT__NATS_URL=made.url,
            LAVENDER_AGENT__AGENT_ID="sigma-tests",
        ) as agent:
            stage.everything()
            with suppress(AssertionError):  # what is missing, each test says for its rule
                made.wait_for(
                    lambda: Heard(stage.done, rows_of(made)).is_whole(), within_secs=WAIT_SECS
                )
            assert agent.stop() == 0
            assert agent.stopped()["lost_in_kernel"] == 0
        return Heard(stage.done, rows_of(made))


def rows_of(made: Any) -> list[dict[str, Any]]:
    query = f"SELECT {', '.join(COLUMNS)} FROM alerts"  # noqa: S608 - our own words
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in made.rows(query)]
    for row in rows:
        row["processes"] = json.loads(row["processes"])
        row["techniques"] = json.loads(row["techniques"])
    return rows


def check(heard: Heard, rule_id: str) -> dict[str, Any]:
    """What every alert must say, whatever its rule."""
    done, alert = heard.of(rule_id)
    names = [*done.parents, done.process]
    assert alert["source"] == "worker"
    assert [each["name"] for each in alert["processes"][-len(names) :]] == names
    assert alert["processes"][-len(names)]["pid"] == done.boundary
    assert alert["processes"][-1]["pid"] == alert["event_pid"]
    assert alert["ancestry"].endswith("=>".join(names))
    assert alert["event_comm"] == COMM.get(done.process, done.process)[:15]
    return alert


def ids() -> list[str]:
    """The rules that are fired here, of Sigma's."""
    lines = [*table(RAN), *table(BORE), *table(WROTE)]
    odd = ("2953194b", "312b42b1", "a39d7fa7", "2fade0b6", "5cd16c8f")
    return [*(rule for rule, _ in lines), *odd, "dbfc7c98", "83dcd9f6"]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the Sigma corpus is not here")
@pytest.mark.parametrize("rule", ids())
def test_a_sigma_rule_is_fired_by_a_process(heard: Heard, rule: str) -> None:
    written = corpus()[rule]
    alert = check(heard, written["id"])
    assert alert["rule_id"] == written["id"]
    assert alert["author"] == written["author"]
    assert alert["level"] == written["level"]
    tags = [tag.removeprefix("attack.").upper() for tag in written.get("tags", ())]
    assert alert["techniques"] == [tag for tag in tags if tag[:1] == "T" and tag[1:2].isdigit()]


ELSEWHERE = {
    "tests/detection/test_written_files.py": (
        *("account-file-written", "authorized-keys-written", "sudoers-written", "cron-written"),
        *("preload-written", "unit-written", "login-script-written", "pam-written"),
    ),
    "tests/kernel/test_lineage.py": (
        *("shell-on-socket", "shell-behind-connection", "shell-of-listener"),
        *("commands-from-outside", "shell-relay", "shell-loop"),
    ),
    "tests/kernel/test_connect_forged.py": ("forged-connection",),
    "tests/kernel/test_floods.py": ("calls-left-out", "call-flood"),
}
"""Where the other built-in rules are fired; those about writes also in test_guarded.py."""


@pytest.mark.parametrize(
    "rule",
    [
        each.id
        for each in builtin_rules()
        if not any(each.id in rules for rules in ELSEWHERE.values())
    ],
)
def test_a_built_in_rule_is_fired_by_a_process(heard: Heard, rule: str) -> None:
    (shipped,) = (each for each in builtin_rules() if each.id == rule)
    alert = check(heard, rule)
    assert (alert["author"], alert["level"]) == ("Lavender", shipped.level)
    assert alert["techniques"] == list(shipped.techniques)


def test_no_rule_is_claimed_twice() -> None:
    assert len(set(ids())) == len(ids()) >= 60


def test_nothing_of_it_is_left(heard: Heard) -> None:
    assert heard.done
    for path in (
        "/tmp/rootlog",
        "/tmp/ld.py",
        "/etc/cron.d/eve",
        "/etc/systemd/system/eve.service",
    ):
        assert not os.path.lexists(path)
