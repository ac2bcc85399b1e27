"""Correlations, joined with the rules that they refer to, as sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sigma.correlations import (
    CorrelationConditionAND,
    CorrelationConditionItem,
    CorrelationConditionOR,
    SigmaCorrelationCondition,
    SigmaCorrelationConditionOperator,
    SigmaCorrelationRule,
    SigmaCorrelationType,
    SigmaExtendedCorrelationCondition,
    SigmaRuleReference,
)

from actors.detection.conditions import EventType
from actors.detection.rules import Match, Sequence, Step
from services.detection.sigma import folding
from services.detection.sigma.fields import Choice, Field, View
from services.detection.sigma.metadata import description
from services.detection.sigma.refusals import Invalid, Unsupported

WINDOW_MAX_SECS = 30 * 86_400
COUNT_MAX = 100_000
_Op = SigmaCorrelationConditionOperator
_COUNTED = {SigmaCorrelationType.EVENT_COUNT, SigmaCorrelationType.VALUE_COUNT}
_TEMPORAL = {SigmaCorrelationType.TEMPORAL, SigmaCorrelationType.TEMPORAL_ORDERED}


@dataclass(frozen=True, slots=True)
class Referred:
    """A rule that a correlation refers to."""

    reference: str
    """As the correlation calls it."""
    matches: tuple[Match, ...]
    views: tuple[View, ...]


def references(correlation: SigmaCorrelationRule) -> tuple[str, ...]:
    """Return the names and ids that a correlation refers to, in its order."""
    condition = correlation.condition
    if correlation.rules:
        named = [each.reference for each in correlation.rules]
    elif isinstance(condition, SigmaExtendedCorrelationCondition):
        named = condition.get_referenced_rules()
    else:
        named = []
    if not named or not all(isinstance(each, str) for each in named):
        raise Invalid("a correlation refers to rules, by id or by name")
    return tuple(named)


def sequence(correlation: SigmaCorrelationRule, referred: dict[str, Referred]) -> Sequence:
    """Return a correlation as a sequence.

    Raises:
        Invalid: It is broken.
        Unsupported: Lavender has no such sequences.
    """
    seconds = correlation.timespan.seconds
    if seconds > WINDOW_MAX_SECS:
        raise Unsupported(f"timespan {correlation.timespan.spec}: longer than 30 days")
    if correlation.type in _COUNTED:
        steps = [[referred[each] for each in references(correlation)]]
        count = _count(correlation)
    elif correlation.type in _TEMPORAL:
        steps = _steps(correlation, referred)
        count = 1
    else:
        raise Unsupported(f"correlation type {correlation.type}: Lavender only counts")
    distinct = ""
    if correlation.type is SigmaCorrelationType.VALUE_COUNT:
        distinct = _distinct(correlation, steps[0])
    return Sequence(
        **description(correlation),  # type: ignore[arg-type] # mypy: the source is a word of Literal
        steps=tuple(_step(correlation, each) for each in steps),
        scope="host",
        ordered=correlation.type is SigmaCorrelationType.TEMPORAL_ORDERED,
        count=count,
        distinct=distinct,
        window_secs=seconds,
    )


def _count(correlation: SigmaCorrelationRule) -> int:
    condition = correlation.condition
    if not isinstance(condition, SigmaCorrelationCondition):
        raise Invalid(f"a correlation of type {correlation.type} counts: gte and a number")
    number = condition.count
    match condition.op:
        case _Op.GTE:
            count = math.ceil(number)
        case _Op.GT:
            count = math.floor(number) + 1
        case _Op.EQ if number == int(number):
            count = int(number)
        case _Op.EQ:
            raise Invalid(f"there are never {number} events")
        case _:
            raise Unsupported(
                f"correlation condition {condition.op.name.lower()}: Lavender tells when there are"
                " enough events, not when there are too few"
            )
    if count < 1:
        raise Invalid(f"the correlation always holds: {condition.op.name.lower()} {number}")
    if count > COUNT_MAX:
        raise Unsupported(f"{count:,} events: Lavender counts up to {COUNT_MAX:,}")
    return count


def _steps(
    correlation: SigmaCorrelationRule, referred: dict[str, Referred]
) -> list[list[Referred]]:
    """The rules of each step."""
    condition = correlation.condition
    named = references(correlation)
    if isinstance(condition, SigmaExtendedCorrelationCondition):
        return [[referred[each] for each in names] for names in _alternatives(condition.parsed)]
    needed = math.ceil(condition.count) + (condition.op is _Op.GT)
    if condition.op not in {_Op.GTE, _Op.GT, _Op.EQ} or needed != len(named):
        raise Unsupported(
            f"correlation condition {condition.op.name.lower()} {condition.count} of {len(named)}"
            " rules: in Lavender each of them must be seen"
        )
    return [[referred[each]] for each in named]


def _alternatives(tree: CorrelationConditionItem | SigmaRuleReference) -> list[list[str]]:
    """``a and (b or c)`` as the rules of each step."""
    match tree:
        case SigmaRuleReference():
            return [[tree.reference]]
        case CorrelationConditionAND():
            return [names for each in tree.args for names in _alternatives(each)]
        case CorrelationConditionOR():
            parts = [_alternatives(each) for each in tree.args]
            if all(len(part) == 1 for part in parts):
                return [[name for part in parts for name in part[0]]]
            raise Unsupported("a correlation condition with and inside or")
        case _:
            raise Unsupported("a correlation condition with not: Lavender waits for no absence")


def _step(correlation: SigmaCorrelationRule, rules: list[Referred]) -> Step:
    found: dict[EventType, list[folding.Folded]] = {}
    for rule in rules:
        for match in rule.matches:
            found.setdefault(match.event, []).append(match.when)
    matches = []
    for event, parts in found.items():
        when = folding.any_of(parts)
        if isinstance(when, bool):
            raise Invalid(f"its rules together match every {event} event")
        matches.append(Match(event, when))
    by = tuple(
        _event_field_of(correlation, name, rules, what="group-by")
        for name in correlation.group_by or ()
    )
    return Step(tuple(matches), by)


def _event_field_of(
    correlation: SigmaCorrelationRule, name: str, rules: list[Referred], *, what: str
) -> str:
    """The event's field that a name means, the same for every rule of a step."""
    found = {
        _looked_up(view, _meant(correlation, name, rule.reference), what)
        for rule in rules
        for view in rule.views
    }
    if len(found) > 1:
        raise Unsupported(
            f"{what} field {name}: it is {' and '.join(sorted(found))} in the events of one step"
        )
    return found.pop()


def _meant(correlation: SigmaCorrelationRule, name: str, reference: str) -> str:
    """A rule's own name for a field that the correlation may have given an alias."""
    alias = correlation.aliases.aliases.get(name)
    if alias is None:
        return name
    for of, field in alias.mapping.items():
        if of.reference == reference:
            return str(field)
    raise Invalid(f"alias {name} says nothing about the rule {reference}")


def _distinct(correlation: SigmaCorrelationRule, rules: list[Referred]) -> str:
    condition = correlation.condition
    name = condition.fieldref if isinstance(condition, SigmaCorrelationCondition) else None
    if isinstance(name, list) and len(name) == 1:
        name = name[0]
    if not isinstance(name, str):
        raise Unsupported("value_count of several fields: Lavender counts the values of one")
    return _event_field_of(correlation, name, rules, what="value_count")


def _looked_up(view: View, name: str, what: str) -> str:
    lookup = view.lookup(name)
    if isinstance(lookup, Field):
        return lookup.name
    if isinstance(lookup, Choice):
        raise Unsupported(f"{what} field {name}: Lavender's events hold no such value")
    raise Unsupported(f"{what} {lookup.reason}")
