"""Values of a rule, as tests of a field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import ip_address

from sigma.types import (
    CompareOperators,
    Placeholder,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaStringPartType,
    SigmaTimestampPart,
    SigmaType,
    SpecialChars,
)

from actors.detection.conditions import Op, Test
from services.detection.sigma import regexes
from services.detection.sigma.fields import Field
from services.detection.sigma.folding import Folded
from services.detection.sigma.refusals import Invalid, Unsupported

_TEXT_OPS: dict[tuple[bool, bool], Op] = {
    (False, False): "equals",
    (True, True): "contains",
    (False, True): "startswith",
    (True, False): "endswith",
}
_COMPARED: dict[CompareOperators, Op] = {
    CompareOperators.LT: "lt",
    CompareOperators.LTE: "lte",
    CompareOperators.GT: "gt",
    CompareOperators.GTE: "gte",
}
_STAR = SpecialChars.WILDCARD_MULTI


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, apart from the values: a field and how its values are taken."""

    field: Field
    name: str
    """As the rule calls it."""
    start: bool = False
    """A regular expression is tied to the beginning."""
    end: bool = False


def question(asked: Asked, value: SigmaType) -> Folded:
    """Return one value's test, or whether it always or never holds.

    Raises:
        Unsupported: Lavender's field cannot be asked that.
        Invalid: Nor could any.
    """
    match value:
        case SigmaNull():
            return _exists(asked, wanted=False)
        case SigmaExists():
            return _exists(asked, wanted=value.exists)
        case SigmaString():
            return _string(asked, value)
        case SigmaRegularExpression():
            return _expression(asked, value)
        case _:
            return _special(asked, value)


def _special(asked: Asked, value: SigmaType) -> Folded:
    """A value that only some kinds of fields can be compared with."""
    match value:
        case SigmaCIDRExpression() if asked.field.kind == "address":
            return Test(asked.field.name, "cidr", (str(value.network),))
        case SigmaCIDRExpression():
            raise Unsupported(f"field {asked.name} is no address, so it has no cidr")
        case SigmaCompareExpression():
            return _comparison(asked, value)
        case SigmaNumber() if not isinstance(value, SigmaTimestampPart):
            return _number(asked, value.number)
        case SigmaBool():
            raise Invalid(
                f"field {asked.name} is no truth value: to compare it with the word that was"
                " written (yes, no, on, off, true, false), put it in quotes"
            )
        case _:
            raise Unsupported(f"field {asked.name}: {type(value).__name__} cannot be compared")


def glob_of(value: SigmaString) -> str:
    """Return a text with wildcards as a glob."""
    if any(isinstance(part, Placeholder) for part in value.s):
        name = next(part.name for part in value.s if isinstance(part, Placeholder))
        raise Unsupported(f"placeholder %{name}%: Lavender has no lists to put there")
    return value.convert(escape_char="\\", add_escaped="\\")


def _exists(asked: Asked, *, wanted: bool) -> Folded:
    return wanted if asked.field.present else Test(asked.field.name, "exists", (wanted,))


def _string(asked: Asked, value: SigmaString) -> Folded:
    glob = glob_of(value)
    parts = list(value.s)
    left = right = 0
    while left < len(parts) and parts[left] == _STAR:
        left += 1
    if parts and left == len(parts):
        return _exists(asked, wanted=True)
    while parts[len(parts) - 1 - right : len(parts) - right] == [_STAR]:
        right += 1
    inner = parts[left : len(parts) - right]
    if asked.field.kind == "number":
        return _number_text(asked, inner, whole=not left and not right)
    cased = isinstance(value, SigmaCasedString)
    if all(isinstance(part, str) for part in inner):
        text = "".join(str(part) for part in inner)
        op = _TEXT_OPS[bool(left), bool(right)]
        if op == "equals" and asked.field.kind == "address":
            text = _canonical(text)
        return Test(asked.field.name, op, (text,), cased=cased)
    return Test(asked.field.name, "glob", (glob,), cased=cased)


def _canonical(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text


def _number_text(asked: Asked, inner: list[SigmaStringPartType], *, whole: bool) -> Folded:
    if not whole or len(inner) != 1 or not isinstance(inner[0], str):
        raise Unsupported(f"field {asked.name} is a number here, which is compared as a whole")
    try:
        return _number(asked, int(inner[0][:40], 0))
    except ValueError:
        raise Invalid(f"field {asked.name} is a number, never {inner[0]!r}") from None


def _number(asked: Asked, number: float) -> Folded:
    field = asked.field
    if field.kind != "number":
        return Test(field.name, "equals", (str(number),))
    if not field.least <= number <= field.most or number != int(number):
        raise Invalid(f"field {asked.name} is never {number}")
    return Test(field.name, "equals", (int(number),))


def _comparison(asked: Asked, value: SigmaCompareExpression) -> Folded:
    field, op, number = asked.field, _COMPARED.get(value.op), value.number.number
    if field.kind != "number" or op is None:
        raise Unsupported(f"field {asked.name} is text here, which is neither more nor less")
    bound = math.ceil(number) if op in {"lt", "gte"} else math.floor(number)
    lowest, highest = {
        "lt": (field.least, bound - 1),
        "lte": (field.least, bound),
        "gt": (bound + 1, field.most),
        "gte": (bound, field.most),
    }[op]
    if lowest <= field.least and highest >= field.most:
        return field.present or Test(field.name, "exists", (True,))
    if highest < field.least or lowest > field.most:
        raise Invalid(f"field {asked.name} is never {op} {number}")
    return Test(field.name, op, (bound,))


def _expression(asked: Asked, value: SigmaRegularExpression) -> Folded:
    if asked.field.kind == "number":
        raise Unsupported(f"field {asked.name} is a number here, which is compared as a whole")
    if value.contains_placeholder():
        raise Unsupported(f"field {asked.name}: Lavender has no lists for placeholders")
    flags = "".join(value.sigma_to_re_flag[flag] for flag in value.flags)
    whole = regexes.expression(str(value.regexp), flags, start=asked.start, end=asked.end)
    if regexes.matches_everything(str(value.regexp)):
        return _exists(asked, wanted=True)
    return Test(asked.field.name, "re", (whole,))
