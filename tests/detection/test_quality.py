"""What is wrong with a rule that can be read."""

from typing import Any

import pytest

from actors.detection.conditions import AnyOf, Condition, EventType, Not, RuleError, Test
from actors.detection.quality import check_rule
from actors.detection.rules import Match, Rule, Sequence, Step
from actors.detection.settings import FilterSettings


def rule(event: EventType, when: Condition) -> Rule:
    return Rule(id="r", label="r", matches=(Match(event, when),))


@pytest.mark.parametrize(
    ("event", "when"),
    [
        ("exec", Test("error", "equals", (0,))),
        ("exec", Test("exe", "exists", (True,))),
        ("exec", Test("text", "contains", ("",))),
        ("exec", Test("command_line", "glob", ("*",))),
        ("exec", Test("exe", "re", ("",))),
        ("exec", Not(Test("exe", "equals", ("/x",)))),
        ("exec", Test("parent.exe", "exists", (True,))),
        ("exec", Test("dest_ip", "exists", (False,))),
        ("open", Test("exe", "startswith", ("/",))),
        (
            "open",
            AnyOf((Test("access", "equals", ("read",)), Test("access", "equals", ("write",)))),
        ),
        ("connect", Test("dest_port", "gt", (0,))),
    ],
)
def test_a_rule_that_matches_everything_is_refused(event: EventType, when: Condition) -> None:
    with pytest.raises(RuleError, match=f"r: matches every {event} event"):
        check_rule(rule(event, when), FilterSettings())


@pytest.mark.parametrize(
    ("event", "when"),
    [
        ("exec", Test("dest_ip", "equals", ("10.0.0.1",))),
        ("exec", Test("dest_ip", "exists", (True,))),
        ("open", Test("cwd", "contains", ("x",))),
    ],
)
def test_a_rule_about_fields_its_events_lack_is_refused(event: EventType, when: Any) -> None:
    with pytest.raises(RuleError, match="r: can never match"):
        check_rule(rule(event, when), FilterSettings())


def test_a_step_that_can_never_be_seen_is_refused() -> None:
    steps = tuple(Step((Match("open", Test(name, "equals", ("/x",))),)) for name in ("path", "cwd"))
    with pytest.raises(RuleError, match="s: step 2 can never match"):
        check_rule(Sequence(id="s", label="s", steps=steps), FilterSettings())
