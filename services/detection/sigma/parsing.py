"""A Sigma document as pySigma's rule, after the checks that pySigma does not make."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sigma.correlations import SigmaCorrelationRule
from sigma.exceptions import SigmaError
from sigma.modifiers import modifier_mapping
from sigma.rule import SigmaRule
from sigma.rule.base import SigmaRuleBase
from sigma.rule.detection import SigmaDetectionItem

from actors.detection.conditions import VALUES_MAX
from services.detection.sigma.documents import Document
from services.detection.sigma.refusals import Invalid, Refused, Unsupported
from services.detection.sigma.regexes import POLICY

_DASHED = re.compile(r"\B[-/]\b")
"""What the modifier windash writes in five ways, three times in a value at most."""
_BROKEN = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
"""What pySigma raises for documents it did not think of; its own errors are ValueErrors."""

_R = TypeVar("_R", bound=SigmaRuleBase)


def parsed(document: Document) -> SigmaRule | SigmaCorrelationRule:
    """Return what pySigma makes of a document.

    Raises:
        Invalid: It is broken.
        Unsupported: It is neither a rule nor a correlation, or beyond pySigma.
    """
    data = document.data
    if "correlation" in data:
        return _whole(document, lambda: SigmaCorrelationRule.from_dict(data, policy=POLICY))
    if "filter" in data:
        raise Unsupported("Sigma filters: exclusions do this in Lavender", line=document.line)
    if "action" in data:
        raise Unsupported(
            f"action {data['action']}: rule collections, which Sigma has given up; write each"
            " rule in full",
            line=document.line_of("action"),
        )
    if data.get("taxonomy", "sigma") != "sigma":
        raise Unsupported(
            f"taxonomy {data['taxonomy']}: only Sigma's own names of fields are known",
            line=document.line_of("taxonomy"),
        )
    if not isinstance(data.get("logsource"), dict):
        raise Invalid("a rule has a logsource, which is a mapping", line=document.line)
    if not isinstance(data.get("detection"), dict):
        raise Invalid("a rule has a detection, which is a mapping", line=document.line)
    for name, definition in data["detection"].items():
        _check(definition, document, name)
    return _whole(document, lambda: SigmaRule.from_dict(data, policy=POLICY))


def _whole(document: Document, parse: Callable[[], _R]) -> _R:
    """Let pySigma parse; a failure has the line of the item that fails, if it is one's."""
    try:
        return parse()
    except (Refused, *_BROKEN) as error:
        detection = document.data.get("detection")
        for name, definition in detection.items() if isinstance(detection, dict) else ():
            for key, value in _keyed(definition) if name != "condition" else ():
                _try(key, value, document.line_of("detection", name, key.split("|")[0]))
        raise _said(error, document.line) from None


def _try(key: str, value: Any, line: int) -> None:
    try:
        SigmaDetectionItem.from_mapping(key, value, policy=POLICY)
    except (Refused, *_BROKEN) as error:
        raise _said(error, line) from None


def _said(error: Exception, line: int) -> Refused:
    if isinstance(error, Refused):
        error.line = line
        return error
    if isinstance(error, SigmaError):
        return Invalid(error, line=line)
    return Invalid(f"not a Sigma document: {type(error).__name__}: {error}", line=line)


def _check(definition: Any, document: Document, name: str) -> None:
    """Refuse modifiers that do not exist, and values that it would stumble over."""
    for key, value in _keyed(definition):
        field, *modifiers = key.split("|")
        line = document.line_of("detection", name, field)
        unknown = next((each for each in modifiers if each not in modifier_mapping), None)
        if unknown is not None:
            raise Invalid(f"field {field}: there is no modifier {unknown}", line=line)
        if len(set(modifiers)) < len(modifiers):
            raise Invalid(f"field {field}: a modifier stands twice", line=line)
        values = value if isinstance(value, list) else [value]
        if len(values) > VALUES_MAX:
            raise Invalid(
                f"field {field}: {len(values):,} values, more than {VALUES_MAX:,}", line=line
            )
        if "re" in modifiers and not all(isinstance(value, str) for value in values):
            raise Invalid(f"field {field}: a regular expression is text, in quotes", line=line)


def expressions(document: Document) -> int:
    """Return how many regular expressions a document has."""
    return sum(1 for _ in _values(document, "re"))


def variants(document: Document) -> int:
    """Return how many values a document's dashes would become."""
    return sum(
        5 ** min(len(_DASHED.findall(value)), 3)
        for value in _values(document, "windash")
        if isinstance(value, str)
    )


def _values(document: Document, modifier: str) -> Iterator[Any]:
    """Its values that a modifier is for."""
    detection = document.data.get("detection")
    for definition in detection.values() if isinstance(detection, dict) else ():
        for key, value in _keyed(definition):
            if modifier in key.split("|")[1:]:
                yield from value if isinstance(value, list) else (value,)


def _keyed(definition: Any) -> Iterator[tuple[str, Any]]:
    """The items of a detection, those of mappings in lists too."""
    if isinstance(definition, dict):
        yield from definition.items()
    elif isinstance(definition, list):
        if len(definition) > VALUES_MAX:
            yield "", definition
            return
        for each in definition:
            yield from _keyed(each)
