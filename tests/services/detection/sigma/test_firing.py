"""Correlations of Sigma fire through the engine."""

import pytest

from actors.detection.engine import Engine
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host
from tests.services.detection.sigma.evaluator import PROCESS
from tests.services.detection.sigma.test_correlations import correlation, loaded, rule

RULES = tuple(rule(name, f"CommandLine|contains: word-{name}", PROCESS) for name in ("one", "two"))


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("type: event_count\nrules: [one]\ncondition: {gte: 3}", "111", "001"),
        ("type: event_count\nrules: [one, two]\ncondition: {gte: 3}", "121", "001"),
        ("type: event_count\nrules: [one]\ncondition: {gte: 3}", "1212", "0000"),
        (
            "type: value_count\nrules: [one]\ncondition: {gte: 2, field: CommandLine}",
            "11A",
            "001",
        ),
        ("type: temporal\nrules: [one, two]", "112", "001"),
        ("type: temporal\nrules: [one, two]", "21", "01"),
        ("type: temporal_ordered\nrules: [one, two]", "211", "000"),
        ("type: temporal_ordered\nrules: [one, two]", "12", "01"),
    ],
)
def test_a_correlation_fires(text: str, words: str, expected: str) -> None:
    results = loaded(*RULES, correlation(f"{text}\ngroup-by: [User, ParentImage]\ntimespan: 5m"))
    assert results.refusals == ()
    host = Host()
    host.engine = Engine(RuleSet(FilterSettings(), results.rules))
    for event in host.events:
        host.engine.process(event)
    spoken = {"1": "word-one", "2": "word-two", "A": "again word-one"}
    told = []
    for each in words:
        _, alerts = host.run(host.init, "/usr/bin/x", spoken[each])
        told.append("1" if any(alert.rule == "Several corr" for alert in alerts) else "0")
    assert "".join(told) == expected
