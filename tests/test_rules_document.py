"""What docs/RULES.md shows is what works."""

import re
from pathlib import Path

import pytest

from actors.detection.quality import check_rule
from actors.detection.rulefile import parse_rule
from actors.detection.ruleset import RuleSet
from actors.detection.ruletest import run_tests
from actors.detection.settings import FilterSettings
from services.detection import rules_command
from services.settings import Settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "RULES.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
RULES = [block for block in BLOCKS if block.startswith("id = ")]
EXCLUSION = next(block for block in BLOCKS if block.startswith("[[exclusions]]"))


def test_there_are_a_rule_a_sequence_and_an_exclusion() -> None:
    assert len(RULES) == 2
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("text", [*RULES, RULES[0] + EXCLUSION])
def test_each_rule_can_be_used_and_passes_its_tests(text: str) -> None:
    rule = parse_rule(text.encode(), path="RULES.md")
    check_rule(rule, FilterSettings())
    outcomes = run_tests(rule, RuleSet(FilterSettings(), [rule]))
    assert [outcome for outcome in outcomes if not outcome.passed] == []


def test_the_commands_take_the_first_rule(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "curl-into-tmp.toml").write_text(RULES[0])
    for words in (["check"], ["test"], ["list"]):
        assert rules_command.main([*words, str(tmp_path)], Settings()) == 0
    assert "2 tests passed, 0 failed" in capfd.readouterr().out
