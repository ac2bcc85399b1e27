"""Conditions that may be known beforehand, and their joining: ``True``, ``False`` or a condition.

A conjunction that contradicts itself is `False`: a rule is not loaded that could never fire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from actors.detection.conditions import AllOf, AnyOf, Condition, Not, Op, Test, Value
from services.detection.sigma import regexes

Folded: TypeAlias = Condition | bool

_COMPARED_MAX = 4096
"""Pairs of values that are compared while looking for contradictions."""
_GLOB_MAX = 1000
"""Characters of a glob that is tried."""
SEVERAL_VALUED = frozenset({"argv", "access", "program"})
"""Fields that can equal different values at once."""


def negated(folded: Folded) -> Folded:
    """It does not hold."""
    if isinstance(folded, bool):
        return not folded
    return folded.of if isinstance(folded, Not) else Not(folded)


def any_of(parts: Iterable[Folded]) -> Folded:
    """At least one holds; tests that differ in their values only are one test of them all."""
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
    merged = _merged(flat)
    return merged[0] if len(merged) == 1 else AnyOf(merged)


def _merged(parts: Iterable[Condition]) -> tuple[Condition, ...]:
    values: dict[tuple[str, Op, bool], dict[tuple[type, Value], None]] = {}
    places: dict[Condition | tuple[str, Op, bool], None] = {}
    for part in parts:
        if isinstance(part, Test) and part.op != "exists":
            key = (part.field, part.op, part.cased)
            places[key] = None
            values.setdefault(key, {}).update(((type(each), each), None) for each in part.values)
        else:
            places[part] = None
    return tuple(
        Test(each[0], each[1], tuple(value for _, value in values[each]), cased=each[2])
        if isinstance(each, tuple)
        else each
        for each in places
    )


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
    asked: dict[str, list[tuple[Test, bool]]] = {}
    for each in conditions:
        if isinstance(each, Not) and each.of in seen:
            return each.of.field if isinstance(each.of, Test) else "a part and its opposite"
        test, wanted = (each.of, False) if isinstance(each, Not) else (each, True)
        if isinstance(test, Test):
            asked.setdefault(test.field, []).append((test, wanted))
    for field, tests in asked.items():
        equal = [test for test, wanted in tests if wanted and test.op == "equals"]
        if equal and field not in SEVERAL_VALUED and not _agree(equal, tests):
            return field
    return _empty_range([each for each in conditions if isinstance(each, Test)])


def _agree(equal: list[Test], tests: list[tuple[Test, bool]]) -> bool:
    """Whether one of the values that the field must equal fits the tests, as far as is looked."""
    first = min(equal, key=lambda test: len(test.values))
    most = _COMPARED_MAX // len(first.values)
    others: list[tuple[Test, bool]] = []
    for test, wanted in tests:
        most -= len(test.values)
        if most < 0:
            break
        others.append((test, wanted))
    return any(_fits(value, others, cased=first.cased) for value in first.values)


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
    if isinstance(value, str) and test.op in _TEXT:
        texts = [each for each in test.values if isinstance(each, str)]
        if test.op == "glob" and any(len(text) > _GLOB_MAX for text in texts):
            return None
        return any(_TEXT[test.op](value, text, test.cased) for text in texts)
    if test.op == "equals":
        return value in test.values
    if test.op in {"lt", "lte", "gt", "gte"} and isinstance(value, int):
        return any(_compares(test.op, value, each) for each in test.values if _is_int(each))
    return None


def _plain(compare: Callable[[str, str], bool]) -> Callable[[str, str, bool], bool]:
    return lambda found, text, cased: (
        compare(found, text) if cased else compare(found.lower(), text.lower())
    )


def _glob(found: str, glob: str, cased: bool) -> bool:  # noqa: FBT001 - called by position only
    flags = "(?s)" if cased else "(?is)"
    return regexes.compiled(flags + regexes.from_glob(glob)).fullmatch(found) is not None


_TEXT: dict[str, Callable[[str, str, bool], bool]] = {
    "equals": _plain(str.__eq__),
    "contains": _plain(str.__contains__),
    "startswith": _plain(str.startswith),
    "endswith": _plain(str.endswith),
    "glob": _glob,
    "re": lambda found, text, _: regexes.compiled(text).search(found) is not None,
}


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
