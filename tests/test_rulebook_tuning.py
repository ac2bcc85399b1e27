"""Tuning in the rules folder: what it does to the rules in force, and what is said of it."""

from __future__ import annotations

from pathlib import Path

from actors import rulebook
from actors.detection.settings import FilterSettings
from actors.rulebook import RuleBook, RulesSettings

RULE = """
id = "mine"
title = "Mine"
event = "exec"
selections.it = { exe = "/opt/tool" }
"""
EXCLUSION = """
[[exclusions]]
owner = "me"
reason = "ours"
match = { uid = 7 }
"""


def book(folder: Path, **files: str) -> RuleBook:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    found = rulebook.read_folder(folder, rulebook.READERS)
    return rulebook.assemble(found, RulesSettings(), FilterSettings(), today="2026-11-25")


def test_tuning_is_applied_and_noted(tmp_path: Path) -> None:
    made = book(tmp_path, rule=RULE, quiet=f'tunes = ["mine"]\n{EXCLUSION}')
    (row,) = (row for row in made.rows if row.id == "mine")
    assert (row.status, row.note) == ("active", "tuned by quiet")
    (rule,) = (rule for rule in made.rules.rules if rule.id == "mine")
    assert [each.reason for each in rule.exclusions] == ["ours"]


def test_a_built_in_rule_is_tuned_like_any_other(tmp_path: Path) -> None:
    made = book(tmp_path, off='tunes = ["rapid-spawning"]\nstatus = "disabled"')
    (row,) = (row for row in made.rows if row.id == "rapid-spawning")
    assert (row.status, row.note) == ("disabled", "tuned by off")
    assert "rapid-spawning" not in {each.id for each in made.rules.sequences}


def test_tuning_of_a_rule_that_is_not_here_is_listed_and_does_no_harm(tmp_path: Path) -> None:
    made = book(tmp_path, quiet=f'tunes = ["elsewhere"]\n{EXCLUSION}')
    (row,) = (row for row in made.rows if row.id == "elsewhere")
    assert (row.status, row.reason) == ("disabled", "there is no such rule")
    assert not made.unusable


def test_an_exclusion_that_has_expired_is_none(tmp_path: Path) -> None:
    old = EXCLUSION.replace('"ours"', '"ours"\nexpires = "2026-11-24"')
    made = book(tmp_path, rule=RULE, quiet=f'tunes = ["mine"]\n{old}')
    (rule,) = (rule for rule in made.rules.rules if rule.id == "mine")
    assert not rule.exclusions


def test_tuning_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    made = book(tmp_path, rule=RULE, quiet='tunes = ["mine"]\nlevel = "low"\n')
    assert [each.line for each in made.unusable] == [2]
