"""Rule files: what they may say, and where what is wrong with one stands."""

import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection.builtin import NAMES, text_of
from actors.detection.conditions import AllOf, AnyOf, Not, Test
from actors.detection.rulefile import SIZE_MAX_BYTES, RuleFileError, parse_rule
from actors.detection.rules import AnyRule, Rule, Sequence

HEAD = 'id = "r"\ntitle = "A rule"\nevent = "exec"\n'
SELECTION = 'selections.a = { exe = "/x" }\n'
SEQUENCE = """id = "s"
title = "A sequence"
[sequence]
steps = ["one", "two"]
[steps.one]
event = "open"
selections.a = { path = "/x" }
[steps.two]
event = "exec"
selections.a = { exe = "/x" }
"""


def refusal(text: str | bytes) -> RuleFileError:
    with pytest.raises(RuleFileError) as caught:
        parse_rule(text if isinstance(text, bytes) else text.encode(), path="r.toml")
    return caught.value


def rule_of(text: str) -> Rule:
    rule = parse_rule(text.encode(), path="r.toml")
    assert isinstance(rule, Rule)
    return rule


def when(text: str) -> Any:
    return rule_of(HEAD + text).matches[0].when


def test_every_key_is_taken() -> None:
    rule = rule_of(
        HEAD
        + """label = "L"
description = "D"
author = "A"
references = ["https://example.org"]
level = "high"
points = 7
techniques = ["T1059.004"]
status = "disabled"
detail = "$program"
condition = "a and not b"
selections.a = { "exe|startswith|cased" = ["/x", "/y"], "argv|contains|all" = ["p", "q"] }
selections.b = [{ uid = 0 }, { "comm|exists" = true }]
[[exclusions]]
owner = "O"
reason = "R"
expires = "2027-01-31"
match = { user = "u" }
[[tests]]
name = "T"
matches = false
events = [{ type = "exec" }]
"""
    )
    assert (rule.id, rule.label, rule.description, rule.author) == ("r", "L", "D", "A")
    assert (rule.level, rule.points, rule.techniques) == ("high", 7, ("T1059.004",))
    assert (rule.status, rule.detail, rule.title) == ("disabled", "$program", "A rule")
    assert rule.references == ("https://example.org",)
    (match,) = rule.matches
    assert match.event == "exec"
    assert match.when == AllOf(
        (
            Test("exe", "startswith", ("/x", "/y"), cased=True),
            Test("argv", "contains", ("p",)),
            Test("argv", "contains", ("q",)),
            Not(AnyOf((Test("uid", "equals", (0,)), Test("comm", "exists", (True,))))),
        )
    )
    (exclusion,) = rule.exclusions
    assert (exclusion.owner, exclusion.reason, exclusion.expires) == ("O", "R", "2027-01-31")
    assert exclusion.when == Test("user", "equals", ("u",))
    (test,) = rule.tests
    assert (test.name, test.matches, test.events) == ("T", False, ({"type": "exec"},))


def test_every_key_of_a_sequence_is_taken() -> None:
    rule = parse_rule(
        SEQUENCE.replace(
            "[steps.one]",
            'scope = "host"\nordered = false\nby = ["user"]\nwithin_secs = 9\nuntil = "end"\n'
            '[steps.end]\nevent = "open"\nselections.a = { path = "/end" }\n'
            '[steps.one]\nby = ["exe"]',
        ).encode(),
        path="s.toml",
    )
    assert isinstance(rule, Sequence)
    assert (rule.scope, rule.ordered, rule.window_secs) == ("host", False, 9)
    assert [step.by for step in rule.steps] == [("exe",), ("user",)]
    assert [match.when for match in rule.until] == [Test("path", "equals", ("/end",))]


@pytest.mark.parametrize("name", NAMES)
def test_built_in_rules_survive_their_compiled_form(name: str) -> None:
    rule = parse_rule(text_of(name).encode(), path=name)
    assert msgspec.json.decode(msgspec.json.encode(rule), type=AnyRule) == rule


THREE = "".join(f'selections.{name} = {{ comm = "{name}" }}\n' for name in ("a1", "a2", "b"))
A1, A2, B = (Test("comm", "equals", (name,)) for name in ("a1", "a2", "b"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a1 or a2 and b", AnyOf((A1, AllOf((A2, B))))),
        ("(a1 or a2) and b", AllOf((AnyOf((A1, A2)), B))),
        ("not a1 and not (a2 or b)", AllOf((Not(A1), Not(AnyOf((A2, B)))))),
        ("1 of a* and not b", AllOf((AnyOf((A1, A2)), Not(B)))),
        ("any of them", AnyOf((A1, A2, B))),
        ("not not b or 1 of a*", AnyOf((Not(Not(B)), A1, A2))),
        ("not all of them", Not(AllOf((A1, A2, B)))),
    ],
)
def test_the_condition_language(text: str, expected: Any) -> None:
    assert when(f'condition = "{text}"\n{THREE}') == expected


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 0, "missing required field `id`"),
        ("id = \n", 1, "Invalid value"),
        ('id = "r"\nid = "r"\n', 2, "overwrite"),
        ('id = "r', 1, "document"),
        ('id = "a b"\ntitle = "x"\n', 1, "matching regex"),
        ('id = "r\\n"\ntitle = "x"\n', 1, "matching regex"),
        ('id = "r"\ntitle = ""\n', 2, "length"),
        (HEAD + "colour = 1\n" + SELECTION, 4, "there is no key colour; there are id"),
        (HEAD + "points = 'x'\n" + SELECTION, 4, "Expected `int`"),
        (
            HEAD + "level = 'huge'\n" + SELECTION,
            4,
            "not one of critical, high, informational, low, medium",
        ),
        (HEAD + "level = 'hgih'\n" + SELECTION, 4, "did you mean high?"),
        (HEAD + "levl = 'high'\n" + SELECTION, 4, "no key levl; did you mean level?"),
        (HEAD + "detail = '$progam ran'\n" + SELECTION, 4, "did you mean program?"),
        (HEAD + "[selections]\na = { exe = 'bash' }\n", 5, '"exe|endswith" = "/bash"'),
        (HEAD + "[selections]\na = { 'exe|startswith' = 'tmp/' }\n", 5, "is no path"),
        (HEAD + "techniques = ['1059']\n" + SELECTION, 4, "regex"),
        (HEAD.replace("exec", "fork") + SELECTION, 3, "not one of connect, exec, flood, open"),
        (HEAD, 0, "selections: there is none"),
        (HEAD + "selections.a = {}\n", 4, "empty"),
        (HEAD + "selections.a = []\n", 4, "empty list"),
        (HEAD + "selections.a = { exe = [] }\n", 4, "an empty list matches nothing"),
        (HEAD + "selections.a = { exe = 1.5 }\n", 4, "Expected"),
        (HEAD + "selections.a = { exe = 2020-01-01 }\n", 4, "Expected"),
        (
            HEAD + SELECTION + "selections.b = { eks = 1 }\ncondition = 'a and b'",
            5,
            "no such field",
        ),
        (HEAD + SELECTION + "[selections.b]\n'eks|re' = 'x'\n", 0, "say how the selections"),
        (HEAD + "selections.a = { 'exe|is' = '/x' }\n", 4, "cannot use 'is'"),
        (HEAD + "selections.a = { 'exe|re|glob' = '/x' }\n", 4, "cannot use"),
        (HEAD + "[selections.a]\ncomm = 'x'\n'exe|re' = '('\n", 6, "missing \\)"),
        (HEAD + "selections.a = { 'exe|re' = '(?=x)' }\n", 4, "regular expression"),
        (HEAD + "selections.a = { 'exe|re' = '(a)\\1' }\n", 4, "regular expression"),
        (HEAD + "selections.a = { 'exe|cidr' = 'x' }\n", 4, "network"),
        (HEAD + "selections.a = { 'uid|contains' = 1 }\n", 4, "does not suit a number"),
        (HEAD + "selections.a = { uid = 'x' }\n", 4, "is a number"),
        (HEAD + "selections.a = { system_exe = 'x' }\n", 4, "true or false"),
        (HEAD + "selections.a = { 'exe|exists' = 'no' }\n", 4, "exists is true or false"),
        (HEAD + "selections.a = { 'program|listed' = 'x' }\n", 4, "not a list of names"),
        (HEAD + "selections.a = { 'exe|same_as' = 'eks' }\n", 4, "no such field"),
        (HEAD + "condition = 'a and'\n" + SELECTION, 4, "ends where"),
        (HEAD + "condition = 'a b'\n" + SELECTION, 4, "not expected"),
        (HEAD + "condition = '(a'\n" + SELECTION, 4, "not closed"),
        (HEAD + "condition = 'a & b'\n" + SELECTION, 4, "cannot be read"),
        (HEAD + "condition = 'c'\n" + SELECTION, 4, "no selection 'c'"),
        (HEAD + "condition = '2 of a*'\n" + SELECTION, 4, "write 1, any or all"),
        (HEAD + "condition = '1 of c*'\n" + SELECTION, 4, "no selection is called"),
        (HEAD + "condition = 'a'\nselections.b = { uid = 0 }\n" + SELECTION, 4, "does not use"),
        (HEAD + f"condition = '{'not ' * 60} a'\n" + SELECTION, 4, "nested more than"),
        (HEAD + "condition = 'a and not a'\n" + SELECTION, 4, "can never hold"),
        (HEAD + "condition = 'a and b'\nselections.b = { exe = '/y' }\n" + SELECTION, 5, "at once"),
        (HEAD + SELECTION + "[[exclusions]]\nreason = 'x'\nmatch = { uid = 0 }\n", 5, "`owner`"),
        (
            HEAD + SELECTION + "[[exclusions]]\nowner = ' '\nreason = 'x'\nmatch = { uid = 0 }\n",
            5,
            "needs an owner",
        ),
        (
            HEAD + SELECTION + "[[exclusions]]\nowner='o'\nreason='x'\nmatch = { eks = 0 }\n",
            8,
            "no such field",
        ),
        (HEAD + SELECTION + "[steps.x]\nevent = 'exec'\nselections.a = {}\n", 5, "\\[sequence\\]"),
        (SEQUENCE + "[sequence2]\n", 11, "no key sequence2; did you mean sequence?"),
        (SEQUENCE.replace('"two"]', '"three"]'), 0, "no \\[steps.three\\]"),
        (SEQUENCE.replace(', "two"]', "]"), 0, "not used|no sequence"),
        (SEQUENCE.replace("[steps.one]", "count = 2\n[steps.one]"), 3, "one step can be counted"),
        (SEQUENCE.replace("[steps.one]", "by = ['eks']\n[steps.one]"), 3, "no such field"),
        (SEQUENCE.replace("[steps.one]", "by = ['cwd']\n[steps.one]"), 3, "have no field 'cwd'"),
        (SEQUENCE.replace("[steps.one]", "within_secs = 0\n[steps.one]"), 5, ">= 1"),
        (
            SEQUENCE.replace("[sequence]", 'event = "exec"\n[sequence]'),
            4,
            "has steps, and no event",
        ),
        (HEAD + f"points = {'9' * 5000}\n", 0, "digits"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, reason: str) -> None:
    error = refusal(text)
    assert error.path == "r.toml"
    assert not line or error.line == line, error
    assert re.search(reason, error.reason), error


def test_a_file_that_is_not_utf_8_says_where() -> None:
    error = refusal(b'id = "r"\ntitle = "\xff"\n')
    assert (error.line, error.reason) == (2, "is not UTF-8")


def test_a_file_that_is_too_large_is_not_read() -> None:
    assert "larger than 1 MiB" in refusal(b"#" * (SIZE_MAX_BYTES * 10)).reason


def test_lines_are_those_of_an_editor() -> None:
    text = HEAD.replace("A rule", "A \u2028 rule \u0085") + "colour = 1\n" + SELECTION
    assert refusal(text).line == 4


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a" * 1_000_001,
        "a " * 500_001,
        " " * 1_000_003 + "a",
        "a" + " " * 1_000_004 + "b",
        HEAD + "a." * 30 + "a = 1\n" * 15_000,
        HEAD + "," * 900_000,
        HEAD + "selections.a = { " + ", ".join(f"'x{n}|y' = 1" for n in range(60_000)) + " }",
        "[[a]]\n" * 150_000,
        'a = """' + "\n" * 900_000,
        "a=" + "[" * 100_000,
        "a=" + "{a=" * 100_000,
        "a." * 400_000 + "a = 1",
        "[" + "a." * 400_000 + "a]",
        "\n".join(f"[a{number}.b]" for number in range(60_000)),
        HEAD + "selections.a = { exe = [" + "'x'," * 200_000 + "] }",
        HEAD
        + f"condition = '{'all of them or ' * 300} a'\n"
        + "selections.a = { 'argv|contains|all' = ["
        + "'xyz'," * 9_000
        + "] }",
        HEAD + "condition = '" + "(" * 8000 + "'\n" + SELECTION,
        HEAD + "selections.a = { 'exe|re' = '" + "|".join("a.{0,300}b" for _ in range(60)) + "' }",
        HEAD + "selections.a = { 'exe|re' = '((a{0,100}){0,100}){0,100}' }",
        HEAD + "selections.a = { 'exe|glob' = '" + "*a" * 100_000 + "' }",
        HEAD + "\n" * 1_000_000 + "colour = 1",
    ],
    ids=str.__len__,
)
def test_a_hostile_file_is_refused_soon(text: str) -> None:
    with pytest.raises(RuleFileError):
        parse_rule(text.encode(), path="r.toml")


PARTS = st.sampled_from(
    [
        *(SEQUENCE + HEAD + SELECTION).splitlines(),
        *("[[tests]]", "[[exclusions]]", "condition = '1 of a*'", 'by = ["exe"]', "'exe|re' = '('"),
        *("count = 3", "ordered = false", "[selections.b]", "exe = 1", "x = nan", "x = 1979-05-27"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=12).map("\n".join) | st.text() | st.binary())
def test_nothing_makes_it_raise_anything_else(text: str | bytes) -> None:
    with suppress(RuleFileError):
        parse_rule(text if isinstance(text, bytes) else text.encode(), path="r.toml")
