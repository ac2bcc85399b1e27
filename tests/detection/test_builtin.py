import pytest

from actors.detection.builtin import NAMES, builtin_rules, builtin_set, text_of
from actors.detection.quality import check_rule
from actors.detection.rulefile import parse_rule
from actors.detection.rules import AnyRule
from actors.detection.ruletest import run_tests
from actors.detection.settings import FilterSettings


@pytest.mark.parametrize("rule", builtin_rules(), ids=lambda rule: rule.id)
def test_each_built_in_rule_passes_its_own_tests(rule: AnyRule) -> None:
    outcomes = run_tests(rule, builtin_set(FilterSettings()))
    assert {outcome.wanted for outcome in outcomes} == {True, False}
    assert [outcome for outcome in outcomes if not outcome.passed] == []


@pytest.mark.parametrize("rule", builtin_rules(), ids=lambda rule: rule.id)
def test_each_built_in_rule_can_match_and_does_not_match_everything(rule: AnyRule) -> None:
    check_rule(rule, FilterSettings())


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_named_after_its_rule_and_says_who_wrote_it(name: str) -> None:
    rule = parse_rule(text_of(name).encode(), path=name)
    assert rule.id == name
    assert rule.author
    assert rule.references
    assert rule.techniques
    assert rule.description
