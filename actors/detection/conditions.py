"""Conditions: what rules ask of an event, as data.

A condition is a `Test` of one field, or tests joined by `AllOf`, `AnyOf` and `Not`. This is the
form in which the agent and the workers take rules, whatever language they were written in; it holds
no code, and can be written to a file and read back.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta

EventType: TypeAlias = Literal["exec", "open", "connect", "flood"]
"""The events that rules are about."""
EVENT_TYPES: tuple[EventType, ...] = ("exec", "open", "connect", "flood")

Op: TypeAlias = Literal[
    "equals", "contains", "startswith", "endswith", "glob", "re", "cidr",
    "lt", "lte", "gt", "gte", "exists", "same_as", "listed", "trusted",
]  # fmt: skip
Value: TypeAlias = str | int | bool

VALUES_MAX = 10_000
_DEPTH_MAX = 64


class RuleError(ValueError):
    """A rule or sequence cannot work as written; the message names what is wrong."""


class Test(msgspec.Struct, frozen=True, tag="test", omit_defaults=True):
    """One question about one field.

    ``op`` says how the field is compared, ``values`` with what; one value that fits is enough.

    - ``equals``, ``contains``, ``startswith``, ``endswith``: text, without regard to case unless
      ``cased``; ``equals`` also compares numbers and truth values.
    - ``glob``: the whole text, with ``*`` and ``?`` as wildcards and a backslash to take the next
      character as it stands.
    - ``re``: an RE2 expression that may match anywhere, with its flags inside (``(?i)`` for no
      regard to case). Linear in the text, whatever is written.
    - ``cidr``: an address in a network. ``lt lte gt gte``: numbers.
    - ``exists``: whether the field has a value, ``(True,)`` or ``(False,)``.
    - ``same_as``: equal to another field, whose name is the value.
    - ``listed``, ``trusted``: a program, file or port is on the list of ``[filters]`` that the
      value names; ``trusted`` also demands that the program's name can be believed.
    """

    __test__: ClassVar[bool] = False
    """It is no test of pytest's."""

    field: str
    op: Op
    values: Annotated[tuple[Value, ...], Meta(min_length=1, max_length=VALUES_MAX)]
    cased: bool = False


class AllOf(msgspec.Struct, frozen=True, tag="all"):
    """Every one holds; the cheap ones come first."""

    of: Annotated[tuple[Condition, ...], Meta(min_length=1)]


class AnyOf(msgspec.Struct, frozen=True, tag="any"):
    """At least one holds."""

    of: Annotated[tuple[Condition, ...], Meta(min_length=1)]


class Not(msgspec.Struct, frozen=True, tag="not"):
    """It does not hold."""

    of: Condition


Condition: TypeAlias = Test | AllOf | AnyOf | Not


def all_of(conditions: list[Condition]) -> Condition:
    """Return their conjunction, flat."""
    flat = [
        each
        for condition in conditions
        for each in (condition.of if isinstance(condition, AllOf) else (condition,))
    ]
    return flat[0] if len(flat) == 1 else AllOf(tuple(flat))


def any_of(conditions: list[Condition]) -> Condition:
    """Return their disjunction, flat."""
    flat = [
        each
        for condition in conditions
        for each in (condition.of if isinstance(condition, AnyOf) else (condition,))
    ]
    return flat[0] if len(flat) == 1 else AnyOf(tuple(flat))


def tests_of(condition: Condition) -> list[Test]:
    """Return every test in it.

    Raises:
        RuleError: It is nested too deeply.
    """
    return _tests(condition, 0)


def _tests(condition: Condition, depth: int) -> list[Test]:
    if depth > _DEPTH_MAX:
        raise RuleError(f"the condition is nested more than {_DEPTH_MAX} deep")
    match condition:
        case Test():
            return [condition]
        case Not():
            return _tests(condition.of, depth + 1)
        case _:
            return [test for each in condition.of for test in _tests(each, depth + 1)]
