"""Hostile YAML: every bound holds, and nothing but plain data comes out."""

from __future__ import annotations

from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.detection.sigma import documents
from services.detection.sigma.documents import decoded
from services.detection.sigma.loading import load
from services.detection.sigma.refusals import Invalid

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: [" * 100_000, 1, "nested more than 24 deep"),
        ("[" * 100_000, 1, "nested more than 24 deep"),
        ("{a: " * 30, 1, "nested more than 24 deep"),
        ("- " * 40, 1, "nested more than 24 deep"),
        (LAUGHS, 5, "more than 50,000 values, aliases expanded"),
        ("a: 1\nb: &x [*x]", 2, "the alias *x stands for nothing before it"),
        ("a: *nothing", 1, "the alias *nothing stands for nothing before it"),
        ("a: &x 1\n---\nb: *x", 3, "the alias *x stands for nothing before it"),
        ("a: [" + "1," * 60_000 + "]", 1, "more than 50,000 values"),
        ("---\na: 1\n" * 1001, 2001, "more than 1000 documents"),
        ("a: 1\nb: 2\na: 3", 3, "the name a stands twice"),
        ("a:\n  b: 1\n  b: 2", 3, "the name b stands twice"),
        ("a: 1\n5: 2", 2, "the name 5 is not text"),
        ("a: 1\nyes: 2", 2, "the name yes is not text"),
        ("a: 1\n? [x]\n: 2", 2, "the name a collection is not text"),
        ("a: 1\n~: 2", 2, "the name ~ is not text"),
        ("just words", 1, "a rule is a mapping"),
        ("- a\n- b", 1, "a rule is a mapping"),
        ("a: 1\n---\n[b]", 3, "a rule is a mapping"),
        ("a: !!python/object/apply:os.system [id]", 1, "not plain data"),
        ("a: !!binary aGk=", 1, "not plain data"),
        ("a: !!set {x, y}", 1, "not plain data"),
        ("a: !mine x", 1, "not plain data"),
        ("!!python/name:os.system x: 1", 1, "not plain data"),
        ("a: 1\nb: [", 2, "not YAML"),
        ("a: 1\n\tb: 2", 2, "not YAML"),
        ("a: 'x", 1, "not YAML"),
        ("a: \x00", 1, "not YAML"),
        ("a: \ud800", 1, "not YAML"),
        ("%YAML 9.9\n---\na: 1", 1, "not YAML"),
        ("a: 1\n<<: 5", 2, "not YAML"),
        ("a: !!int nonsense", 1, "not YAML"),
        ("a: " + "x" * (1 << 20), 1, "larger than 1,048,576 bytes"),
        ("a: " + "é" * (1 << 19), 1, "larger than 1,048,576 bytes"),
    ],
)
def test_hostile_text_is_refused_with_a_line(text: str, line: int, reason: str) -> None:
    (refusal,) = load(text, "bad.yml").refusals
    assert reason in refusal.reason
    assert (refusal.kind, refusal.path) == ("invalid", "bad.yml")
    assert abs(refusal.line - line) <= 1, refusal  # YAML's own marks may be of the next line
    assert len(refusal.reason) < 500


@pytest.mark.parametrize(
    ("raw", "line", "reason"),
    [
        (b"a: 1\nb: \xff\n", 2, "not UTF-8: byte 0xff"),
        (b"\xff\xfea\x00", 1, "not UTF-8"),
        (b"x" * ((1 << 20) + 1), 1, "larger than"),
    ],
)
def test_bytes_that_are_no_text_are_refused(raw: bytes, line: int, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as caught:
        decoded(raw)
    assert caught.value.line == line


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert decoded("\ufeffa: é".encode()) == "a: é"


@pytest.mark.parametrize("text", ["", "\n", "---\n---\n", "# only a remark", "---\n...\n", "~"])
def test_empty_documents_give_nothing(text: str) -> None:
    assert load(text, "empty.yml").refusals == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0777", "0777"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("2024-01-01", "2024-01-01"),
        ("1.10", "1.10"),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ("9" * 4000, "9" * 4000),
        ("+5", "+5"),
        ("=", "="),
        ("42", 42),
        ("-1", -1),
        ("0", 0),
        ("1.5", 1.5),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("'42'", "42"),
        ("!!str 42", "42"),
    ],
)
def test_values_stay_as_they_were_written(text: str, value: object) -> None:
    (document,) = documents.documents(f"a: {text}")
    assert document.data == {"a": value}


def test_aliases_and_merges_are_served_within_the_bounds() -> None:
    (document,) = documents.documents("a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  l: 2")
    assert document.data == {"a": {"k": 1}, "b": {"k": 1}, "c": {"k": 1, "l": 2}}


def test_lines_lead_to_the_parts_of_a_document() -> None:
    text = "x: 1\n---\ndetection:\n  one:\n    - Image|endswith: /a\n    - '|all': [b]\n  two: {}"
    _, document = documents.documents(text)
    assert document.line == 3
    assert document.line_of("detection", "two") == 7
    assert document.line_of("detection", "one", "Image") == 5
    assert document.line_of("detection", "one", "") == 6
    assert document.line_of("detection", "three", "Image") == 3
    assert document.line_of("nothing") == 3


@given(st.text(max_size=200) | st.text("-:[]{}&*!|>'\"#%? \n\tab1", max_size=200))
def test_any_text_gives_rules_or_refusals(text: str) -> None:
    results = load(text, "any.yml")
    assert all(each.line >= 1 and each.reason for each in results.refusals)


@given(st.binary(max_size=100))
def test_any_bytes_are_text_or_refused(raw: bytes) -> None:
    with suppress(Invalid):
        load(decoded(raw), "any.yml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Image", "a0", "|all", "CommandLine|re", "User|contains", "x|cidr", "type", "y|gt"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "title": VALUES | st.just("Any"),
        "id": VALUES | st.uuids().map(str),
        "name": VALUES,
        "status": VALUES | st.just("test"),
        "level": VALUES | st.just("high"),
        "tags": VALUES | st.just(["attack.t1059"]),
        "references": VALUES,
        "falsepositives": VALUES,
        "author": VALUES,
        "related": VALUES,
        "date": VALUES,
        "taxonomy": VALUES,
        "action": VALUES,
        "filter": VALUES,
        "logsource": VALUES
        | st.just({"category": "process_creation"})
        | st.just({"product": "linux", "service": "auditd"}),
        "detection": VALUES
        | st.fixed_dictionaries({"sel": VALUES, "condition": VALUES | st.just("sel")}),
        "correlation": VALUES
        | st.fixed_dictionaries(
            {"type": VALUES | st.just("event_count"), "rules": VALUES, "timespan": VALUES},
            optional={
                "group-by": VALUES,
                "condition": VALUES | st.just({"gte": 5}),
                "aliases": VALUES,
                "generate": VALUES,
            },
        ),
    },
)


@given(st.lists(PARTS, min_size=1, max_size=3))
def test_any_document_gives_a_rule_or_a_refusal(parts: list[dict[str, object]]) -> None:
    results = load(yaml.safe_dump_all(parts, allow_unicode=True), "any.yml")
    whole = any("YAML" in each.reason or "twice" in each.reason for each in results.refusals)
    assert whole or len(results.loaded) + len(results.refusals) == len(parts)
