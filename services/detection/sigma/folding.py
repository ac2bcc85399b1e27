"""Conditions that may be known beforehand, and their joining: ``True``, ``False`` or a condition.

A conjunction that contradicts itself is `False`: a rule is not loaded that could never fire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from actors.detection.conditions import AllOf, AnyOf, Condition, Not, Test, Value
from services.detection.sigma import regexes

Folded: TypeAlias = Condition | bool

_COMPARED_MAX = 4096
"""Pairs of values that are compared while looking for contradictions."""
SEVERAL_VALUED = frozenset({"argv", "access", "program"})
"""Fields that can equal different values at once."""

_PATTERNS: dict[str, Callable[[str], str]] = {
    "equals": regexes.quoted,
    "contains": lambda text: f".*{regexes.quoted(text)}.*",
    "startswith": lambda text: f"{regexes.quoted(text)}.*",
    "endswith": lambda text: f".*{regexes.quoted(text)}",
    "glob": regexes.from_glob,
}


def negated(folded: Folded) -> Folded:
    """It does not hold."""
    if isinstance(folded, bool):
        return not folded
    return folded.of if isinstance(folded, Not) else Not(folded)


def any_of(parts: Iterable[Folded]) -> Folded:
    """At least one holds."""
    flat: dict[Condition, None] = {}
    for part in parts:
        if part is True:
            return True
        if part is not False:
            flat |= dict.fromkeys(part.of if isinstance(part, AnyOf) else (part,))
    if any(isinstance(each, Not) and each.of in flat for each in flat):
        return True
    if not flat:
        return False
    return next(iter(flat)) if len(flat) == 1 else AnyOf(tuple(flat))


def all_of(parts: Iterable[Folded]) -> Folded:
    """Every one holds."""
    flat: dict[Condition, None] = {}
    for part in parts:
        if part is False:
            return False
        if part is not True:
            flat |= dict.fromkeys(part.of if isinstance(part, AllOf) else (part,))
    if not flat:
        return True
    if contradiction(tuple(flat)) is not None:
        return False
    return next(iter(flat)) if len(flat) == 1 else AllOf(tuple(flat))


def contradiction(conditions: tuple[Condition, ...]) -> str | None:
    """Return the field about which they cannot all hold, if there is one that can be seen."""
    seen = set(conditions)
    for each in conditions:
        if isinstance(each, Not) and each.of in seen:
            return each.of.field if isinstance(each.of, Test) else "a part and its opposite"
    tests = [each for each in conditions if isinstance(each, Test)]
    denied = [each.of for each in conditions if isinstance(each, Not) and isinstance(each.of, Test)]
    for test in tests:
        if test.op != "equals" or test.field in SEVERAL_VALUED:
            continue
        others = [(each, True) for each in tests if each.field == test.field and each is not test]
        others += [(each, False) for each in denied if each.field == test.field]
        if len(test.values) * sum(len(each.values) for each, _ in others) > _COMPARED_MAX:
            continue
        if not any(_fits(value, others, cased=test.cased) for value in test.values):
            return test.field
    return _empty_range(tests)


def _fits(value: Value, others: list[tuple[Test, bool]], *, cased: bool) -> bool:
    """Whether a field of this value could satisfy the other tests of it."""
    for test, wanted in others:
        if not cased and test.cased:
            continue  # the case of the text is not known
        said = holds(test, value)
        if said is not None and said is not wanted:
            return False
    return True


def holds(test: Test, value: Value) -> bool | None:
    """Whether a test of a known value holds; None where that cannot be said here."""
    if test.op == "exists":
        return bool(test.values[0])
    texts = [each for each in test.values if isinstance(each, str)]
    if test.op == "re" and isinstance(value, str):
        return any(regexes.compiled(text).search(value) for text in texts)
    if test.op in _PATTERNS and isinstance(value, str):
        flags = "(?s)" if test.cased else "(?is)"
        make = _PATTERNS[test.op]
        return any(regexes.compiled(flags + make(text)).fullmatch(value) for text in texts)
    if test.op == "equals":
        return value in test.values
    if test.op in {"lt", "lte", "gt", "gte"} and isinstance(value, int):
        return any(_compares(test.op, value, each) for each in test.values if _is_int(each))
    return None


def _compares(op: str, value: int, bound: Value) -> bool:
    bound = int(bound)
    return {"lt": value < bound, "lte": value <= bound, "gt": value > bound, "gte": value >= bound}[
        op
    ]


def _empty_range(tests: list[Test]) -> str | None:
    """The field that would have to be above a number and below a smaller one."""
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    for test in tests:
        numbers = [int(each) for each in test.values if _is_int(each)]
        if test.op in {"gt", "gte"} and numbers:
            at = min(numbers) + (test.op == "gt")
            low[test.field] = max(at, low.get(test.field, at))
        if test.op in {"lt", "lte"} and numbers:
            at = max(numbers) - (test.op == "lt")
            high[test.field] = min(at, high.get(test.field, at))
    return next((field for field in low if field in high and low[field] > high[field]), None)


def _is_int(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
