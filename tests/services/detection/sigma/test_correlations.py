"""Correlations as sequences, and the rules that they refer to."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest

from actors.detection.conditions import AllOf, AnyOf
from actors.detection.rules import AnyRule, Rule, Sequence
from services.detection.sigma.loading import Results, load, load_files
from tests.services.detection.sigma.evaluator import (
    AUDITD,
    CONNECTION,
    FILE,
    PROCESS,
    document,
)

ID = "5c1f1ca8-8a4c-4d3e-9f7b-0c8a3a1d2e4f"


def rule(name: str, text: str, logsource: str = PROCESS, more: str = "") -> str:
    detection = f"sel:\n{indent(text, '    ')}\ncondition: sel"
    return document(detection, logsource, f"name: {name}\n{more}").replace("A test", f"Rule {name}")


ONE = rule("one", "CommandLine: a")
TWO = rule("two", "CommandLine: b")
THREE = rule("three", "CommandLine: c")
CALL = rule("call", "DestinationPort: 4444", CONNECTION)
WRITE = rule("write", "TargetFilename: /a", FILE)


def correlation(text: str, name: str = "corr", more: str = "") -> str:
    return f"title: Several {name}\nname: {name}\n{more}\ncorrelation:\n{indent(text, '    ')}\n"


def loaded(*documents: str) -> Results:
    return load("---\n".join(documents), "rules.yml")


def sequence_of(*documents: str) -> Sequence:
    results = loaded(*documents)
    assert [str(each) for each in results.refusals] == []
    (found,) = (each for each in results.rules if isinstance(each, Sequence))
    return found


def refusal_of(*documents: str) -> tuple[str, str]:
    (refusal,) = loaded(*documents).refusals
    return refusal.kind, refusal.reason


def rules_by_name(results: Results) -> dict[str, AnyRule]:
    return {each.title.removeprefix("Rule "): each for each in results.rules}


COUNT = "type: event_count\nrules: [one]\ngroup-by: [User]\ntimespan: 5m\ncondition: {gte: 10}"


def test_a_count_of_events_is_one_step_several_times() -> None:
    found = sequence_of(ONE, correlation(COUNT, more=f"id: {ID}\nlevel: high\nauthor: Ann"))
    one = rules_by_name(loaded(ONE))["one"]
    assert isinstance(one, Rule)
    (step,) = found.steps
    assert step.matches == one.matches
    assert step.by == ("user",)
    assert (found.count, found.window_secs, found.scope, found.distinct) == (10, 300, "host", "")
    assert (found.id, found.label, found.points, found.author) == (ID, "Several corr", 45, "Ann")


@pytest.mark.parametrize(
    ("condition", "count"),
    [("gte: 3", 3), ("gt: 3", 4), ("eq: 3", 3), ("gte: 2.5", 3), ("gt: 2.5", 3), ("eq: 3.0", 3)],
)
def test_counts_are_reached_from_below(condition: str, count: int) -> None:
    text = COUNT.replace("gte: 10", condition)
    assert sequence_of(ONE, correlation(text)).count == count


@pytest.mark.parametrize(
    ("timespan", "seconds"),
    [("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("1w", 604_800)],
)
def test_time_spans_are_seconds(timespan: str, seconds: int) -> None:
    text = COUNT.replace("5m", timespan)
    assert sequence_of(ONE, correlation(text)).window_secs == seconds


def test_a_count_may_be_of_several_rules() -> None:
    text = COUNT.replace("[one]", "[one, two, write]")
    (step,) = sequence_of(ONE, TWO, WRITE, correlation(text)).steps
    assert [match.event for match in step.matches] == ["exec", "open"]
    assert isinstance(step.matches[0].when, AnyOf)
    assert isinstance(step.matches[1].when, AllOf)
    assert step.by == ("user",)


def test_a_count_of_values_counts_different_ones() -> None:
    text = (
        "type: value_count\nrules: call\ngroup-by: User\ntimespan: 1m\n"
        "condition: {gte: 5, field: DestinationIp}"
    )
    found = sequence_of(CALL, correlation(text))
    assert (found.distinct, found.count, found.steps[0].by) == ("dest_ip", 5, ("user",))
    assert sequence_of(CALL, correlation(text.replace("DestinationIp", "[DestinationIp]"))) == found


@pytest.mark.parametrize(("kind", "ordered"), [("temporal", False), ("temporal_ordered", True)])
def test_rules_within_a_time_are_steps(kind: str, *, ordered: bool) -> None:
    text = f"type: {kind}\nrules: [write, one, call]\ntimespan: 1m\ngroup-by: [Image, User]"
    found = sequence_of(ONE, WRITE, CALL, correlation(text))
    assert [step.matches[0].event for step in found.steps] == ["open", "exec", "connect"]
    assert {step.by for step in found.steps} == {("exe", "user")}
    assert (found.ordered, found.count) == (ordered, 1)


def test_aliases_name_the_same_thing_in_different_events() -> None:
    text = """\
type: temporal_ordered
rules: [write, one]
timespan: 1m
group-by: [program, User]
aliases:
    program: {write: TargetFilename, one: Image}
"""
    found = sequence_of(ONE, WRITE, correlation(text))
    assert [step.by for step in found.steps] == [("path", "user"), ("exe", "user")]


@pytest.mark.parametrize(
    ("condition", "steps"),
    [
        ("{gte: 2}", 2),
        ("{eq: 2}", 2),
        ("{gt: 1}", 2),
        ("one and two", 2),
        ("two and one", 2),
    ],
)
def test_each_rule_of_a_temporal_correlation_must_be_seen(condition: str, steps: int) -> None:
    text = f"type: temporal\nrules: [one, two]\ntimespan: 1m\ncondition: {condition}"
    assert len(sequence_of(ONE, TWO, correlation(text)).steps) == steps


def test_a_step_may_be_any_of_several_rules() -> None:
    text = "type: temporal\ntimespan: 1m\ncondition: one and (two or three)"
    first, second = sequence_of(ONE, TWO, THREE, correlation(text)).steps
    assert isinstance(first.matches[0].when, AllOf)
    assert isinstance(second.matches[0].when, AnyOf)


def test_rules_of_a_correlation_are_silent_unless_it_says_otherwise() -> None:
    results = rules_by_name(loaded(ONE, TWO, correlation(COUNT)))
    assert isinstance(one := results["one"], Rule)
    assert isinstance(two := results["two"], Rule)
    assert (one.silent, two.silent) == (True, False)
    results = rules_by_name(loaded(ONE, correlation(f"{COUNT}\ngenerate: true")))
    assert isinstance(one := results["one"], Rule)
    assert not one.silent


def test_a_correlation_that_does_not_run_silences_nothing() -> None:
    for text in (
        correlation(COUNT, more="status: deprecated"),
        correlation(COUNT.replace("gte", "lt")),
    ):
        one = rules_by_name(loaded(ONE, text))["one"]
        assert isinstance(one, Rule)
        assert not one.silent


def test_rules_are_found_by_id_by_name_and_in_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(correlation(COUNT.replace("[one]", f"[{ID.upper()}, two]")))
    (tmp_path / "b.yml").write_text(rule("one", "CommandLine: a", more=f"id: {ID}"))
    (tmp_path / "c.yml").write_text(TWO)
    results = load_files([tmp_path])
    assert results.refusals == ()
    assert [type(each).__name__ for each in results.rules] == ["Sequence", "Rule", "Rule"]


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (("gte: 10", "lt: 10"), "unsupported", "correlation condition lt"),
        (("gte: 10", "lte: 10"), "unsupported", "correlation condition lte"),
        (("gte: 10", "neq: 10"), "unsupported", "correlation condition neq"),
        (("gte: 10", "gte: 0"), "invalid", "always holds"),
        (("gte: 10", "eq: 2.5"), "invalid", "never 2.5 events"),
        (("gte: 10", "gte: 1000000"), "unsupported", "1,000,000 events"),
        (("gte: 10", "gte: many"), "invalid", "no valid Sigma correlation condition count"),
        (("gte: 10", "gte: 1, lt: 5"), "invalid", "exactly one condition"),
        (("5m", "1y"), "unsupported", "timespan 1y: longer than 30 days"),
        (("5m", "0m"), "invalid", "greater than zero"),
        (("5m", "soon"), "invalid", "Timespan"),
        (("timespan: 5m", "x: y"), "invalid", "without timespan"),
        (("event_count", "value_sum"), "invalid", "without field reference"),
        (("event_count", "nothing"), "invalid", "no valid Sigma correlation type"),
        (("User", "IntegrityLevel"), "unsupported", "group-by field IntegrityLevel"),
        (("[one]", "[one, missing]"), "invalid", "rule missing: it is not among the rules"),
        (("[one]", "[]"), "invalid", "refers to rules"),
        (("[one]", "[5]"), "invalid", "refers to rules"),
        (("[one]", "{a: b}"), "invalid", "Rule reference"),
        (("condition: {gte: 10}", "condition: one"), "invalid", "temporal"),
        (("condition: {gte: 10}", "x: y"), "invalid", "without condition"),
    ],
)
def test_counts_that_cannot_be_served_are_refused(
    change: tuple[str, str], kind: str, reason: str
) -> None:
    said = refusal_of(ONE, correlation(COUNT.replace(*change)))
    assert said[0] == kind, said
    assert reason in said[1]


@pytest.mark.parametrize(
    ("condition", "kind", "reason"),
    [
        ("{gte: 1}", "unsupported", "gte 1 of 2 rules"),
        ("{lt: 2}", "unsupported", "lt 2 of 2 rules"),
        ("one and not two", "unsupported", "not"),
        ("(one and two) or (two and one)", "unsupported", "and inside or"),
        ("one and", "invalid", "Failed to parse"),
        ("one and other", "invalid", "not"),
    ],
)
def test_temporal_conditions_that_cannot_be_served_are_refused(
    condition: str, kind: str, reason: str
) -> None:
    text = f"type: temporal\nrules: [one, two]\ntimespan: 1m\ncondition: {condition}"
    said = refusal_of(ONE, TWO, correlation(text))
    assert said[0] == kind, said
    assert reason in said[1]


@pytest.mark.parametrize("kind", ["value_sum", "value_avg", "value_median", "value_percentile"])
def test_sums_and_averages_are_unsupported(kind: str) -> None:
    text = (
        f"type: {kind}\nrules: [call]\ntimespan: 1m\ncondition: {{gte: 5, field: DestinationPort}}"
    )
    said = refusal_of(CALL, correlation(text))
    assert said == ("unsupported", f"correlation type {kind}: Lavender only counts")


def test_a_field_that_differs_within_a_step_groups_nothing() -> None:
    both = rule("both", "name: /etc/x", AUDITD)
    kind, reason = refusal_of(
        both, correlation(COUNT.replace("[one]", "[both]").replace("User", "name"))
    )
    assert kind == "unsupported"
    assert reason == "group-by field name: it is exe and path in the events of one step"


def test_an_alias_must_know_every_rule() -> None:
    text = f"{COUNT}\naliases: {{User: {{two: Image}}}}"
    assert refusal_of(ONE, correlation(text)) == (
        "invalid",
        "alias User says nothing about the rule one",
    )


def test_a_refused_rule_takes_its_correlation_along() -> None:
    broken = rule("one", "CommandLine|nothing: a")
    unserved = rule("one", "Hashes: a")
    for text, kind, reason in (
        (broken, "invalid", "no modifier nothing"),
        (unserved, "unsupported", "Lavender hashes no files"),
    ):
        first, second = loaded(text, correlation(COUNT)).refusals
        assert (first.kind, second.kind) == (kind, kind)
        assert second.reason.startswith("rule one, which it refers to, is refused: ")
        assert reason in second.reason


def test_cycles_among_correlations_are_named() -> None:
    def refers(name: str, to: str) -> str:
        return correlation(COUNT.replace("[one]", f"[{to}]"), name)

    results = loaded(ONE, refers("a", "b"), refers("b", "c"), refers("c", "a"), refers("d", "a"))
    assert [each.reason.partition(": ")[2] for each in results.refusals] == [
        "a → b → c → a",
        "b → c → a → b",
        "c → a → b → c",
        "a → b → c → a",
    ]
    (alone,) = loaded(refers("a", "a")).refusals
    assert alone.reason == "a cycle among correlations: a → a"


def test_a_long_chain_of_correlations_is_no_trouble() -> None:
    chain = [correlation(COUNT.replace("[one]", f"[c{at + 1}]"), f"c{at}") for at in range(200)]
    results = loaded(ONE, *chain, correlation(COUNT, "c200"))
    assert len(results.refusals) == 200


def test_a_correlation_of_one_event_can_be_a_step_of_another() -> None:
    inner = correlation(COUNT.replace("gte: 10", "gte: 1"), "inner")
    outer = "type: temporal\nrules: [inner, two]\ntimespan: 1m"
    found = loaded(ONE, TWO, inner, correlation(f"{outer}\ngenerate: true", "outer"))
    assert found.refusals == ()
    (refusal,) = loaded(ONE, TWO, inner, correlation(outer, "outer")).refusals
    assert refusal.kind == "unsupported"
    assert "rule inner is a correlation itself" in refusal.reason
    (refusal,) = loaded(
        ONE, TWO, correlation(COUNT, "inner"), correlation(f"{outer}\ngenerate: true", "outer")
    ).refusals
    assert refusal.kind == "unsupported"
