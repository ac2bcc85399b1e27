"""Anchors: literals of which one is in an event's text if a condition holds for the event."""

from __future__ import annotations

from actors.detection import predicates
from actors.detection.aliases import with_aliases
from actors.detection.conditions import AllOf, AnyOf, Condition, EventType, Not, Test, tests_of
from actors.detection.fields import field

_LITERAL_MIN = 2


def anchor_of(condition: Condition, event: EventType) -> tuple[str, ...]:
    """Return the anchor of a condition; empty: unknown."""
    match condition:
        case Test():
            found = field(event, condition.field)
            if found is None or not found.searched:
                return ()
            pieces = predicates.literals(with_aliases(condition))
            return pieces if all(len(each) >= _LITERAL_MIN for each in pieces) else ()
        case AllOf():
            return max((anchor_of(each, event) for each in condition.of), key=selectivity)
        case AnyOf():
            parts = [anchor_of(each, event) for each in condition.of]
            return tuple(each for part in parts for each in part) if all(parts) else ()
        case Not():
            return ()


def every_literal(condition: Condition, event: EventType) -> set[str]:
    """Return all literals that may be searched for when only a part of a condition is left."""
    anchors = (anchor_of(test, event) for test in tests_of(condition))
    return {literal for anchor in anchors for literal in anchor}


def selectivity(literals: tuple[str, ...]) -> tuple[int, int]:
    """Return how much an anchor rules out; the greatest is the best."""
    return (min(map(len, literals), default=0), -len(literals))
