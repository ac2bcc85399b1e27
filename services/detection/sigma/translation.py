"""A rule's condition, as one condition for each type of event that can fulfil it.

It is folded for one view at a time. What a view cannot tell is decided against firing: false where
it would help the rule to fire, true inside a ``not``. So a rule that is loaded fires only where its
author meant it to, and one that never could is refused with what it lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pyparsing import ParseBaseException
from sigma.conditions import (
    ConditionAND,
    ConditionIdentifier,
    ConditionItem,
    ConditionNOT,
    ConditionOR,
    ConditionSelector,
    SigmaCondition,
)
from sigma.exceptions import SigmaError
from sigma.rule.detection import SigmaDetection, SigmaDetectionItem, SigmaDetections

from actors.detection.conditions import Condition, EventType, RuleError, Test, tests_of
from actors.detection.rules import Match
from services.detection.sigma import folding, items
from services.detection.sigma.documents import Document
from services.detection.sigma.fields import Field, View
from services.detection.sigma.folding import Folded
from services.detection.sigma.items import Item, Lacking
from services.detection.sigma.refusals import Invalid, Refused, Unsupported

VALUES_MAX = 50_000
"""Values in the conditions of one rule, after expansion."""
_WORDS_MAX = 500
_NESTED_MAX = 24


@dataclass(frozen=True, slots=True)
class Translated:
    """What a rule comes to."""

    matches: tuple[Match, ...]
    views: tuple[View, ...]
    """Those that can fulfil it."""
    notes: tuple[str, ...]
    """What it asks for that Lavender lacks, though it can fire without."""


@dataclass(frozen=True, slots=True)
class _Walk:
    """A rule, being folded for one view."""

    detections: SigmaDetections
    view: View
    document: Document
    lacking: Lacking = field(default_factory=Lacking)
    done: dict[tuple[str, bool], Folded] = field(default_factory=dict)
    """Detections by name, selectors as they are written, and by what the unknown is in them."""


def translate(
    detections: SigmaDetections, views: tuple[View, ...], document: Document
) -> Translated:
    """Return the conditions of a rule for each type of event.

    Raises:
        Unsupported: It cannot fire here.
        Invalid: It is broken, or matches everything.
    """
    at = document.line_of("detection", "condition")
    trees = [_parsed(text, detections, at) for text in detections.condition]
    for tree in trees:
        _check_names(tree, detections, at)
    walks = [_Walk(detections, view, document) for view in views]
    found: dict[View, Folded] = {}
    for walk in walks:
        when = folding.any_of([_tree(tree, walk, unknown=False) for tree in trees])
        if when is True:
            raise Invalid(f"it matches every {walk.view.event} event", line=at)
        if folding.all_of([*walk.view.base, when]) is not False:
            found[walk.view] = when
    if not found:
        raise _never(walks, at)
    matches = [
        Match(event, _sized(_of_event(event, found), line=at))
        for event in dict.fromkeys(view.event for view in found)
    ]
    notes = dict.fromkeys(
        reason
        for walk in walks
        for reason, (_, name) in walk.lacking.unserved.items()
        if not any(isinstance(view.lookup(name), Field) for view in found)
    )
    return Translated(tuple(matches), tuple(found), tuple(notes))


def _never(walks: list[_Walk], at: int) -> Refused:
    """Why none of them can hold: what comes first in the rule's text."""
    unserved = [each for walk in walks for each in walk.lacking.unserved.items()]
    absent = [each for walk in walks for each in walk.lacking.absent.items()]
    for reasons in (unserved, absent):
        if reasons:
            reason, (line, _) = min(reasons, key=lambda each: each[1][0])
            return Unsupported(reason, line=line)
    return Invalid("its condition contradicts itself: it can never hold", line=at)


def _of_event(event: EventType, found: dict[View, Folded]) -> Folded:
    """What any of an event's views asks for; what several of them build on stands there once."""
    bases: dict[tuple[Test, ...], list[Folded]] = {}
    for view, when in found.items():
        if view.event == event:
            bases.setdefault(view.base, []).append(when)
    joined = {base: folding.any_of(parts) for base, parts in bases.items()}
    if any(when is True for when in joined.values()):
        return True  # every event has one view or the other that holds
    return folding.any_of([folding.all_of([*base, when]) for base, when in joined.items()])


def _sized(when: Folded, *, line: int) -> Condition:
    if isinstance(when, bool):
        raise Invalid("it matches every event of a type", line=line)
    try:
        count = sum(len(test.values) for test in tests_of(when))
    except RuleError as error:
        raise Invalid(error, line=line) from None
    if count > VALUES_MAX:
        raise Invalid(f"its condition comes to more than {VALUES_MAX:,} values", line=line)
    return when


def _parsed(text: object, detections: SigmaDetections, line: int) -> ConditionItem:
    """A condition's text as a tree."""
    if not isinstance(text, str):
        raise Invalid("the condition is not text", line=line)
    if "|" in text:
        raise Unsupported(
            "the condition counts after a | (count, near …), which Sigma has given up for"
            " correlations",
            line=line,
        )
    depth = deepest = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if deepest > _NESTED_MAX or len(text.split()) > _WORDS_MAX or len(text) > 100 * _WORDS_MAX:
        raise Invalid("the condition is too long, or nested too deeply", line=line)
    try:
        tree = SigmaCondition(text, detections).parse(postprocess=False)
    except (SigmaError, ParseBaseException, RecursionError) as error:
        raise Invalid(f"condition {text[:80]!r}: {error}", line=line) from None
    if not isinstance(tree, ConditionItem):
        raise Invalid(f"condition {text[:80]!r} is none", line=line)
    return tree


def _check_names(tree: object, detections: SigmaDetections, line: int) -> None:
    """Refuse a condition that names a detection which is not there."""
    match tree:
        case ConditionIdentifier():
            if tree.identifier not in detections.detections:
                raise Invalid(f"no detection is called {tree.identifier}", line=line)
        case ConditionSelector():
            if not tree.resolve_referenced_detections(detections):
                raise Invalid(f"no detection is called {tree.pattern}", line=line)
        case ConditionItem():
            for each in tree.args:
                _check_names(each, detections, line)
        case _:
            raise Invalid(f"the condition has {tree!r} in it", line=line)


def _tree(tree: object, walk: _Walk, *, unknown: bool) -> Folded:
    """Fold a part of the condition; ``unknown`` is what counts as an answer that is not known."""
    match tree:
        case ConditionIdentifier():
            return _detection_called(tree.identifier, walk, unknown=unknown)
        case ConditionSelector():
            return _selected(tree, walk, unknown=unknown)
        case ConditionNOT():
            return folding.negated(_tree(tree.args[0], walk, unknown=not unknown))
        case ConditionAND():
            return folding.all_of(_tree(each, walk, unknown=unknown) for each in tree.args)
        case ConditionOR():
            return folding.any_of(_tree(each, walk, unknown=unknown) for each in tree.args)
        case _:
            raise AssertionError(tree)  # _check_names lets nothing else through


def _selected(tree: ConditionSelector, walk: _Walk, *, unknown: bool) -> Folded:
    """``1 of x*`` and ``all of x*``, folded once however often they are written."""
    key = (f"{tree.args[0]} of {tree.pattern}", unknown)  # no detection's name has spaces
    if key not in walk.done:
        join = folding.all_of if tree.cond_class is ConditionAND else folding.any_of
        walk.done[key] = join(
            _detection_called(each.identifier, walk, unknown=unknown)
            for each in tree.resolve_referenced_detections(walk.detections)
        )
    return walk.done[key]


def _detection_called(name: str, walk: _Walk, *, unknown: bool) -> Folded:
    if (name, unknown) not in walk.done:
        detection = walk.detections.detections[name]
        walk.done[name, unknown] = _detection(detection, name, walk, unknown=unknown)
    return walk.done[name, unknown]


def _detection(detection: SigmaDetection, name: str, walk: _Walk, *, unknown: bool) -> Folded:
    parts = _parts(detection, name, walk, unknown=unknown)
    return (folding.all_of if detection.item_linking is ConditionAND else folding.any_of)(parts)


def _parts(detection: SigmaDetection, name: str, walk: _Walk, *, unknown: bool) -> Iterator[Folded]:
    """Its items, lazily: what follows one that is false need not be asked for."""

    def later(part: SigmaDetectionItem | SigmaDetection) -> bool:
        return not (isinstance(part, SigmaDetectionItem) and items.is_choice(part, walk.view))

    for part in sorted(detection.detection_items, key=later):
        if isinstance(part, SigmaDetection):
            yield _detection(part, name, walk, unknown=unknown)
            continue
        line = walk.document.line_of("detection", name, part.field or "")
        try:
            yield items.fold(Item(part, walk.view, walk.lacking, line, unknown))
        except Refused as error:
            error.line = error.line or line
            raise
