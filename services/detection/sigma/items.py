"""One item of a detection, ``Field|modifiers: values``, folded for one view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sigma.conditions import ConditionAND
from sigma.modifiers import (
    SigmaContainsModifier,
    SigmaEndswithModifier,
    SigmaRegularExpressionModifier,
    SigmaStartswithModifier,
)
from sigma.rule.detection import SigmaDetectionItem
from sigma.types import (
    SigmaBool,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaType,
    SpecialChars,
)

from actors.detection.conditions import Test
from services.detection.sigma import folding
from services.detection.sigma.fields import Absent, Choice, Field, Unserved, View
from services.detection.sigma.folding import Folded
from services.detection.sigma.refusals import Invalid, Unsupported
from services.detection.sigma.values import Asked, question

_WORDS = {True: ("true", "yes"), False: ("false", "no")}
_PLACED = (SigmaContainsModifier, SigmaStartswithModifier, SigmaEndswithModifier)
_STAR = SpecialChars.WILDCARD_MULTI


@dataclass(slots=True)
class Lacking:
    """What a view cannot tell, as it was found, with the line that asks for it."""

    unserved: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Lavender's events do not have it: the reason, its line, the field."""
    absent: dict[str, tuple[int, str]] = field(default_factory=dict)
    """No such record has it."""


@dataclass(frozen=True, slots=True)
class Item:
    """An item, and what it is folded for."""

    of: SigmaDetectionItem
    view: View
    lacking: Lacking
    line: int
    unknown: bool
    """What counts as the answer that the view cannot give."""

    def lacks(self, reason: str) -> None:
        """Note what Lavender's events do not have."""
        self.lacking.unserved.setdefault(reason, (self.line, self.of.field or ""))

    def is_without(self, reason: str) -> None:
        """Note what no such record has."""
        self.lacking.absent.setdefault(reason, (self.line, self.of.field or ""))


def is_choice(item: SigmaDetectionItem, view: View) -> bool:
    """Whether it is decided beforehand, so that it had better come first."""
    return item.field is not None and isinstance(view.lookup(item.field), Choice)


def fold(item: Item) -> Folded:
    """Return when it holds.

    Raises:
        Refused: It cannot be asked of an event.
    """
    if item.of.negated:
        inner = Item(item.of, item.view, item.lacking, item.line, not item.unknown)
        return folding.negated(_linked(inner))
    return _linked(item)


def _linked(item: Item) -> Folded:
    values = item.of.value or [SigmaNull()]
    if item.of.value_linking is ConditionAND:
        folded = folding.all_of([_one(item, value) for value in values])
    else:
        folded = folding.any_of([_one(item, value) for value in _flat(values)])
    if folded is False:
        _note_unknown(item, values)
    return folded


def _one(item: Item, value: SigmaType) -> Folded:
    if isinstance(value, SigmaExpansion):
        return folding.any_of([_one(item, each) for each in _flat(value.values)])
    if item.of.field is None:
        value = _keyword(item, value)
        lookup = item.view.text
    else:
        lookup = item.view.lookup(item.of.field)
    match lookup:
        case Unserved():
            if lookup.misspelt:
                raise Invalid(lookup.reason, line=item.line)
            item.lacks(lookup.reason)
            return item.unknown
        case Absent():
            return _absent(item, lookup, value)
        case Choice():
            return _chosen(item, lookup, value)
        case Field():
            if isinstance(value, SigmaFieldReference):
                return _reference(item, lookup, value)
            return question(_asked(item, lookup), value)


def _asked(item: Item, of: Field) -> Asked:
    modifiers = item.of.modifiers
    expression = SigmaRegularExpressionModifier in modifiers
    return Asked(
        of,
        item.of.field or "keywords",
        start=expression and SigmaStartswithModifier in modifiers,
        end=expression and SigmaEndswithModifier in modifiers,
    )


def _keyword(item: Item, value: SigmaType) -> SigmaType:
    """A keyword as a value that the event's text shall contain."""
    if any(modifier in item.of.modifiers for modifier in _PLACED[1:]):
        raise Unsupported("keywords with startswith or endswith: an event's text has no order")
    if isinstance(value, SigmaNumber):
        value = SigmaString(str(value.number))
    if isinstance(value, SigmaRegularExpression):
        return value
    if not isinstance(value, SigmaString):
        raise Invalid("a keyword is text, and nothing else")
    if not any(each != _STAR for each in value.s):
        raise Invalid("an empty keyword is in everything")
    if not value.startswith(_STAR):
        value = _STAR + value
    return value if value.endswith(_STAR) else value + _STAR


def _absent(item: Item, lookup: Absent, value: SigmaType) -> bool:
    if isinstance(value, SigmaNull):
        return True
    if isinstance(value, SigmaExists):
        return not value.exists
    item.is_without(lookup.reason)
    return False


def _chosen(item: Item, choice: Choice, value: SigmaType) -> Folded:
    """Which of the possible texts a value fits."""
    if isinstance(value, SigmaNull):
        return False
    if isinstance(value, SigmaExists):
        return value.exists
    if isinstance(value, SigmaFieldReference):
        raise Unsupported(f"field {item.of.field} cannot be compared with another field")
    return folding.any_of(
        [answer for text, answer in choice.answers.items() if _fits(item, value, text)]
    )


def _note_unknown(item: Item, values: list[SigmaType]) -> None:
    """Note what was asked of a choice that nothing can answer."""
    choice = item.view.lookup(item.of.field) if item.of.field is not None else None
    if not isinstance(choice, Choice):
        return
    asked = [value for value in _flat(values) if not isinstance(value, SigmaNull | SigmaExists)]
    if not any(_fits(item, value, text) for value in asked for text in choice.elsewhere):
        for value in asked:
            item.lacks(choice.other.format(_shown(value)))


def _flat(values: list[SigmaType]) -> Iterator[SigmaType]:
    for value in values:
        if isinstance(value, SigmaExpansion):
            yield from _flat(value.values)
        else:
            yield value


def _fits(item: Item, value: SigmaType, text: str) -> bool:
    if isinstance(value, SigmaBool):
        return text in _WORDS[value.boolean]
    test = question(_asked(item, Field(item.of.field or "")), value)
    return bool(test) if isinstance(test, bool) else _holds(test, text)


def _holds(test: Folded, text: str) -> bool:
    return isinstance(test, Test) and bool(folding.holds(test, text))


def _reference(item: Item, of: Field, value: SigmaFieldReference) -> Folded:
    """The field equals another field."""
    if value.starts_with or value.ends_with:
        raise Unsupported("fieldref with contains, startswith or endswith")
    other = item.view.lookup(value.field)
    if isinstance(other, Unserved):
        item.lacks(other.reason)
        return item.unknown
    if isinstance(other, Absent):
        item.is_without(other.reason)
        return False
    if isinstance(other, Choice) or other.kind != of.kind:
        raise Unsupported(f"field {item.of.field} cannot be compared with {value.field}")
    if other.name == of.name:
        raise Invalid(f"field {item.of.field} is compared with itself")
    return Test(of.name, "same_as", (other.name,))


def _shown(value: SigmaType) -> str:
    if isinstance(value, SigmaBool):
        return "true" if value.boolean else "false"
    return str(value)[:80] if isinstance(value, SigmaString | SigmaNumber) else repr(value)[:80]
