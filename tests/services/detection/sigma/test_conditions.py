"""Every form of condition, by what it finds; and that folding changes no answer."""

from __future__ import annotations

from typing import TypeAlias

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from actors.detection.rules import Rule
from services.detection.sigma.loading import load
from tests.services.detection.sigma.evaluator import (
    CONNECTED,
    CONNECTION,
    FILE,
    WRITTEN,
    document,
    fires,
    refusal_of,
    rule_of,
    started,
)

THREE = """
sel_a:
    CommandLine|contains: a
sel_b:
    CommandLine|contains: b
other:
    CommandLine|contains: c
"""


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        ("sel_a", "a", "b"),
        ("sel_a and sel_b", "ab", "a"),
        ("sel_a or sel_b", "b", "c"),
        ("sel_a and not sel_b", "a", "ab"),
        ("not sel_a", "b", "a"),
        ("not not sel_a", "a", "b"),
        ("1 of sel_*", "b", "c"),
        ("any of sel_*", "b", "c"),
        ("all of sel_*", "ab", "a"),
        ("1 of them", "c", "d"),
        ("all of them", "abc", "ab"),
        ("not 1 of sel_*", "c", "a"),
        ("not all of sel_*", "a", "ab"),
        ("sel_a or sel_b and other", "a", "b"),
        ("(sel_a or sel_b) and other", "bc", "a"),
        ("sel_a and (sel_b or not other)", "a", "ac"),
        ("1 of s*_b", "b", "a"),
        ("not (sel_a or sel_b)", "c", "b"),
        ("other and not 1 of sel_*", "c", "ca"),
        ("[sel_a, sel_b]", "b", "c"),
    ],
)
def test_conditions_find_what_they_mean(condition: str, yes: str, no: str) -> None:
    rule = rule_of(f"{THREE}condition: {condition}")
    assert fires(rule, started(yes))
    assert not fires(rule, started(no))


@pytest.mark.parametrize(
    ("detection", "yes", "no"),
    [
        ("sel: {CommandLine|contains: a, User: root}", "a", "b"),
        ("sel: [{CommandLine: a}, {CommandLine: b}]", "b", "c"),
        (
            "sel: [{CommandLine|startswith: a, CommandLine|endswith: b}, {CommandLine: c}]",
            "ab",
            "a",
        ),
        ("sel: word", "a WORD b", "wor"),
        ("sel: [one, two]", "xtwox", "three"),
        ("sel: ['a*c']", "xabcx", "ab"),
        ("sel: {'|all': [one, two]}", "two one", "one"),
        ("sel: {'|re': 'a+b'}", "xaab", "b"),
        ("sel: {'|re': ['a+b', 'c']}", "c", "b"),
        ("sel: {'|cased': Word}", "xWordx", "word"),
        ("sel: {'|base64offset|contains': 'http://'}", "aHR0cDovLw", "http://"),
        ("sel: {'|contains': word}", "a word", "wor"),
        ("sel: {'|contains|all': [one, two]}", "onetwo", "one"),
        ("sel: [0, 6]", "init 6", "init 5"),
        ("sel: [word, {CommandLine: a}]", "a", "b"),
        ("sel: {'|neq': word}", "a", "word"),
    ],
)
def test_detections_find_what_they_mean(detection: str, yes: str, no: str) -> None:
    rule = rule_of(f"{detection}\ncondition: sel")
    assert fires(rule, started(yes, text=yes))
    assert not fires(rule, started(no, text=no))


def test_keywords_are_looked_for_in_the_text_of_files_and_connections() -> None:
    keywords = "words: [shadow]\ncondition: words"
    assert fires(rule_of(keywords, FILE), WRITTEN | {"text": "/etc/shadow"}, "open")
    assert fires(rule_of(keywords, CONNECTION), CONNECTED | {"text": "/shadow"}, "connect")


@pytest.mark.parametrize(
    ("detection", "reason"),
    [
        ("sel: {CommandLine: a}\ncondition: other", "no detection is called other"),
        ("sel: {CommandLine: a}\ncondition: sel and other", "no detection is called other"),
        ("sel: {CommandLine: a}\ncondition: 1 of x*", "no detection is called x*"),
        ("sel: {CommandLine: a}\ncondition: sel and", "condition 'sel and'"),
        ("sel: {CommandLine: a}\ncondition: (sel", "condition '(sel'"),
        ("sel: {CommandLine: a}\ncondition: ''", "condition ''"),
        ("sel: {CommandLine: a}\ncondition: 5", "the condition is not text"),
        ("sel: {CommandLine: a}\ncondition: 2 of sel*", "condition '2 of sel*'"),
        ("sel: {CommandLine: a}\ncondition: []", "at least one condition"),
        ("sel: {CommandLine: a}", "at least one condition"),
        ("condition: sel", "No detections defined"),
        ("sel: []\ncondition: sel", "a keyword is text"),
        ("sel: {}\ncondition: sel", "Detection is empty"),
        ("sel: null\ncondition: sel", "a keyword is text"),
        ("sel: ['']\ncondition: sel", "empty keyword"),
        ("sel: ['*']\ncondition: sel", "empty keyword"),
        ("sel: {CommandLine: a}\ncondition: sel and not sel", "can never hold"),
        ("sel: {CommandLine: a}\ncondition: sel or not sel", "matches every exec event"),
        (f"sel: {{CommandLine: a}}\ncondition: {'(' * 30}sel{')' * 30}", "nested too deeply"),
        (f"sel: {{CommandLine: a}}\ncondition: {'not ' * 501}sel", "too long"),
    ],
)
def test_broken_conditions_are_refused(detection: str, reason: str) -> None:
    refusal = refusal_of(detection)
    assert refusal.kind == "invalid"
    assert reason in refusal.reason


@pytest.mark.parametrize(
    "detection",
    [
        "sel: {CommandLine: a}\ncondition: sel | count() by User > 5",
        "sel: {CommandLine: a}\ncondition: sel | near other",
        "sel: {'|startswith': a}\ncondition: sel",
        "sel: {'|endswith': a}\ncondition: sel",
    ],
)
def test_conditions_that_lavender_does_not_have_are_unsupported(detection: str) -> None:
    assert refusal_of(detection).kind == "unsupported"


def test_many_names_in_a_condition_cannot_make_it_explode() -> None:
    words = ", ".join(f"w{number}" for number in range(9000))
    names = "(a and b) or (a and c) or (a and d) or (b and c) or (b and d)"
    detection = "".join(f"{name}: {{CommandLine: [{name}, {words}]}}\n" for name in "abcd")
    refusal = refusal_of(f"{detection}condition: {names}")
    assert refusal.kind == "invalid"
    assert "more than 50,000 values" in refusal.reason


def test_what_cannot_be_told_never_helps_a_rule_to_fire() -> None:
    """Sigma would fire in fewer cases than without the filter, so here it does as well."""
    sure = "sel: {CommandLine|contains: a}\n"
    either = rule_of(f"{sure}more: {{Hashes: x}}\ncondition: sel or more")
    assert fires(either, started("a"))
    narrow = rule_of(f"{sure}filter: {{Hashes: x, User: root}}\ncondition: sel and not filter")
    assert not fires(narrow, started("a"))
    assert fires(narrow, started("a", user="nobody"))
    refusal = refusal_of(f"{sure}filter: {{Hashes: x}}\ncondition: sel and not filter")
    assert (refusal.kind, refusal.reason) == (
        "unsupported",
        "field Hashes: Lavender hashes no files",
    )


def test_a_rule_says_what_it_does_without() -> None:
    text = document("sel: {CommandLine: a}\nmore: {Hashes: x}\ncondition: sel or more")
    (loaded,) = load(text, "a.yml").loaded
    assert loaded.notes == ("field Hashes: Lavender hashes no files",)


# What Sigma means, written down a second time without any folding.

Detection: TypeAlias = dict[str, str | list[str]]
Tree: TypeAlias = str | tuple["Tree", ...]

NAMES = ("a", "b", "c")
KEYS = {
    "Image": "exe",
    "CommandLine": "command_line",
    "CurrentDirectory": "cwd",
    "ParentImage": "parent.exe",
}
TEXTS = st.text("xy/", max_size=4)
ITEMS = st.dictionaries(
    st.tuples(
        st.sampled_from(sorted(KEYS)),
        st.sampled_from(["", "|contains", "|startswith", "|endswith", "|contains|all", "|neq"]),
    ).map("".join),
    st.lists(TEXTS, min_size=1, max_size=3),
    min_size=1,
    max_size=3,
)
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: (
        st.tuples(st.just("not"), inner) | st.tuples(st.sampled_from(["and", "or"]), inner, inner)
    ),
    max_leaves=5,
)
EVENTS = st.fixed_dictionaries(
    {"Image": TEXTS}, optional={name: TEXTS for name in KEYS if name != "Image"}
)


def written(tree: Tree) -> str:
    match tree:
        case str():
            return tree
        case ("not", inner):
            return f"not ({written(inner)})"
        case (join, left, right):
            return f"({written(left)}) {join} ({written(right)})"
    raise AssertionError(tree)


def meant(tree: Tree, detections: dict[str, Detection], record: dict[str, str]) -> bool:
    match tree:
        case str():
            return all(_item(key, values, record) for key, values in detections[tree].items())
        case ("not", inner):
            return not meant(inner, detections, record)
        case ("and", left, right):
            return meant(left, detections, record) and meant(right, detections, record)
        case (_, left, right):
            return meant(left, detections, record) or meant(right, detections, record)
    raise AssertionError(tree)


def _item(key: str, values: str | list[str], record: dict[str, str]) -> bool:
    name, *modifiers = key.split("|")
    found = record.get(name)
    tests = [found is not None and _value(modifiers, value, found) for value in values]
    joined = all(tests) if "all" in modifiers else any(tests)
    return not joined if "neq" in modifiers else joined


def _value(modifiers: list[str], value: str, found: str) -> bool:
    if "contains" in modifiers:
        return value in found
    if "startswith" in modifiers:
        return found.startswith(value)
    return found.endswith(value) if "endswith" in modifiers else found == value


@given(
    detections=st.fixed_dictionaries(dict.fromkeys(NAMES, ITEMS)),
    tree=TREES,
    records=st.lists(EVENTS, min_size=1, max_size=8),
)
def test_folding_changes_no_answer(
    detections: dict[str, Detection], tree: Tree, records: list[dict[str, str]]
) -> None:
    rule = {
        "title": "Any",
        "logsource": {"category": "process_creation", "product": "linux"},
        "detection": {**detections, "condition": written(tree)},
    }
    results = load(yaml.safe_dump(rule), "any.yml")
    said = [each.reason for each in results.refusals]
    for record in records:
        event = started("x") | {KEYS[name]: text for name, text in record.items()}
        for name in KEYS.keys() - record.keys():
            event.pop(KEYS[name], None)
        expected = meant(tree, detections, record)
        if results.rules:
            (loaded,) = results.rules
            assert isinstance(loaded, Rule)
            assert fires(loaded, event) is expected
        else:
            assert said in (
                ["it matches every exec event"] if expected else [],
                ["its condition contradicts itself: it can never hold"] if not expected else [],
            )
