"""Explanations: for one event, which parts of a rule's condition held and which did not."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from actors.detection.conditions import AllOf, AnyOf, Condition, EventType, Not, Test
from actors.detection.engine import Engine
from actors.detection.events import AnyEvent, ConnectEvent, ExecEvent, FloodEvent, OpenEvent
from actors.detection.fields import field, value_of
from actors.detection.observation import TYPE_OF, Observation
from actors.detection.rules import AnyRule, Match, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.text import printable

_VALUES_SHOWN = 5
_UNTIL = "until"
_TEXT_MAX = 160


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of a condition and what became of it."""

    says: str
    """What is asked, as people read it."""
    held: bool
    value: str = ""
    """What the event has, for a test of one field."""
    parts: tuple[Part, ...] = ()

    def lines(self, indent: str = "") -> Iterable[str]:
        """Give it as indented lines."""
        mark = "✓" if self.held else "✗"
        value = f"   ({self.value})" if self.value else ""
        yield f"{indent}{mark} {self.says}{value}"
        for part in self.parts:
            yield from part.lines(f"{indent}  ")


class Explained(msgspec.Struct, frozen=True):
    """One event, and what each part of the rule makes of it."""

    number: int
    """Which event of the recording, from 1."""
    event: EventType
    held: bool
    """Whether a whole condition held; of a sequence, that of a step."""
    parts: tuple[Part, ...]


def explain(
    rule: AnyRule, rules: RuleSet, events: Iterable[AnyEvent], *, hostname: str = ""
) -> Iterable[Explained]:
    """Explain each event of the types that a rule is about, in order.

    Args:
        rule: Which.
        rules: A set that has it, for the lists it names.
        events: From the beginning of the host's recording.
        hostname: The host's.
    """
    engine = Engine(rules, hostname=hostname)
    wanted = {match.event for _, match in _matches(rule)}
    for number, event in enumerate(events, 1):
        if not isinstance(event, ExecEvent | OpenEvent | ConnectEvent | FloodEvent):
            engine.process(event)
            continue
        seen = engine.observe(event)
        kind = TYPE_OF[type(event)]
        if kind in wanted:
            parts = tuple(_explained(rule, rules, seen, kind))
            held = any(part.held and part.says != _UNTIL for part in parts)
            yield Explained(number, kind, held, parts)
        if seen.first_call:
            engine.host.callers.forget_last()  # every part was asked, though the engine may not
        if isinstance(event, ConnectEvent):
            engine.process(event)


def _matches(rule: AnyRule) -> list[tuple[str, Match]]:
    if isinstance(rule, Rule):
        return [(f"{match.event} event", match) for match in rule.matches]
    return [
        *(
            (f"step {number}", match)
            for number, step in enumerate(rule.steps, 1)
            for match in step.matches
        ),
        *((_UNTIL, match) for match in rule.until),
    ]


def _explained(rule: AnyRule, rules: RuleSet, seen: Observation, kind: EventType) -> Iterable[Part]:
    for name, match in _matches(rule):
        if match.event != kind:
            continue
        condition = _part(match.when, rules, seen, kind)
        excluded = [
            Part(f"not excluded: {each.reason}", held=not part.held, parts=(part,))
            for each in (rule.exclusions if name != _UNTIL else ())
            for part in (_part(each.when, rules, seen, kind),)
        ]
        held = condition.held and all(part.held for part in excluded)
        yield Part(name, held, parts=(condition, *excluded))


def _part(condition: Condition, rules: RuleSet, seen: Observation, kind: EventType) -> Part:
    match condition:
        case Test():
            found = field(kind, condition.field)
            held = rules.holds(condition, kind, seen)
            value = None if found is None or found.last else value_of(found, seen)
            shown = "no value" if value is None else printable(str(value), limit=_TEXT_MAX)
            return Part(_said(condition), held, shown)
        case Not():
            inner = _part(condition.of, rules, seen, kind)
            return Part("not", not inner.held, parts=(inner,))
        case AllOf():
            parts = tuple(_part(each, rules, seen, kind) for each in condition.of)
            return Part("all of", all(part.held for part in parts), parts=parts)
        case AnyOf():
            parts = tuple(_part(each, rules, seen, kind) for each in condition.of)
            return Part("any of", any(part.held for part in parts), parts=parts)


def _said(test: Test) -> str:
    values = ", ".join(repr(value) for value in test.values[:_VALUES_SHOWN])
    more = len(test.values) - _VALUES_SHOWN
    cased = " (case matters)" if test.cased else ""
    return f"{test.field} {test.op} {values}{f' and {more} more' if more > 0 else ''}{cased}"
