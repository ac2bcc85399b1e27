"""Every command of README and docs is run: here, or by the test that the plan names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents.extract import ROOT, documents, name_of, named, plain, shown
from tests.documents.plan import ELSEWHERE, SCENES
from tests.documents.scene import Run, Serve
from tests.documents.stage import play

PLANNED = {
    step.text
    for steps in SCENES.values()
    for step in steps
    if isinstance(step, Run | Serve) and not step.ours
}
DOCUMENTED = [command for path in documents() for command in shown(path)]


def test_every_documented_command_is_run() -> None:
    covered = PLANNED | ELSEWHERE.keys()
    assert [str(each) for each in DOCUMENTED if each.text not in covered] == []


def test_what_is_run_is_what_is_documented() -> None:
    texts = {each.text for path in documents() for each in (*shown(path), *named(path))}
    assert sorted((PLANNED | ELSEWHERE.keys()) - texts) == []


def test_a_command_named_in_the_text_is_one_that_is_run() -> None:
    known = [plain(text) for text in (*PLANNED, *ELSEWHERE)]
    unknown = [
        str(each)
        for path in documents()
        for each in named(path)
        if not any(text == plain(each.text) or _begins(text, each.text) for text in known)
    ]
    assert unknown == []


def _begins(known: str, text: str) -> bool:
    return known.startswith(plain(text) + " ")


@pytest.mark.parametrize("where", sorted(set(ELSEWHERE.values())))
def test_what_runs_the_others_exists(where: str) -> None:
    file, _, test = where.partition(": ") if ": " in where else where.partition("::")
    text = (ROOT / file).read_text()
    if file.endswith(".py"):
        assert re.search(rf"^(?:async )?def {re.escape(test)}\(", text, re.MULTILINE), where
    else:
        assert test in text.splitlines(), where


@pytest.mark.parametrize(
    "target", sorted({text.split()[1] for text in ELSEWHERE if text.startswith("make ")})
)
def test_a_documented_target_can_be_made(target: str) -> None:
    words = ["make", "--dry-run", target]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_stand_in_blocks_that_say_so() -> None:
    """What is indented instead would be seen by nobody."""
    indented = [
        f"{name_of(path)}:{number}"
        for path in documents()
        for number, line in _outside(path.read_text())
        if re.match(r" {4}(?:[.]venv|sudo|python|make|docker|export) ?", line)
    ]
    assert indented == []


def _outside(text: str) -> list[tuple[int, str]]:
    without = re.sub(r"```.*?```", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    return list(enumerate(without.splitlines(), 1))


@pytest.mark.kernel
@pytest.mark.parametrize("name", SCENES)
def test_a_scene(name: str) -> None:
    play(name)


def test_a_checkout_is_brought_up_to_date(tmp_path: Path) -> None:
    """``git pull``, of a repository of our own: this one's origin may be nowhere."""
    origin, checkout = tmp_path / "origin", tmp_path / "checkout"
    git = (
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.org",
        "-c",
        "init.defaultBranch=m",
    )
    for words in (
        ("init", "-q", origin),
        ("-C", origin, "commit", "-q", "--allow-empty", "-m", "one"),
        ("clone", "-q", origin, checkout),
        ("-C", origin, "commit", "-q", "--allow-empty", "-m", "two"),
        ("-C", checkout, "pull", "-q"),
    ):
        subprocess.run([*git, *words], check=True, capture_output=True)
    said = subprocess.run(
        [*git, "-C", checkout, "log", "--format=%s"], check=True, capture_output=True, text=True
    )
    assert said.stdout.split() == ["two", "one"]


def test_make_docs_changes_nothing() -> None:
    """What ``make docs`` would write is there already."""
    recipe = _make("--dry-run", "docs")
    for module, path in re.findall(r"-m (tests\.\w+) > (docs/\S+)", recipe):
        done = subprocess.run(
            [sys.executable, "-m", module], cwd=ROOT, capture_output=True, check=True
        )
        assert done.stdout == (ROOT / path).read_bytes(), path


def test_make_help_names_every_target() -> None:
    helped = _make("help")
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [each for each in targets if each not in helped] == []


def _make(*words: str) -> str:
    words = ("make", *words)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_every_documented_measure_exists() -> None:
    words = [sys.executable, "-m", "tests.bench", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    text = (ROOT / "docs" / "BENCHMARKS.md").read_text()
    measures = set(re.findall(r"^\|[^|]*\| `([a-z-]+)` \|", text, re.MULTILINE))
    assert measures
    assert [each for each in sorted(measures) if each not in done.stdout] == []


@pytest.mark.kernel
def test_a_measure_is_made() -> None:
    """One that takes seconds, by `make bench`; the others want minutes and a quiet machine."""
    measured = json.loads(_make("--silent", "bench", "BENCH_ARGS=--json sizes"))
    assert [row["measure"] for row in measured["rows"]][-1] == "an event in PostgreSQL"
