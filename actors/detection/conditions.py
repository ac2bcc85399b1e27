"""Conditions: the questions of which rules and sequences are made, as data."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

EventType: TypeAlias = Literal["exec", "open", "connect"]
"""The events that rules are about."""


class RuleError(ValueError):
    """A rule or sequence cannot work as written; the message names what is wrong."""


class Condition(msgspec.Struct, frozen=True):
    """One question about an event."""

    check: str
    """Name of a check in ``checks.py``."""
    argument: str = ""
    """What the check is about: a list in the settings, or a name."""
    negated: bool = False
    """The answer must be no."""


def must(check: str, argument: str = "") -> Condition:
    """Return the condition that the check says yes."""
    return Condition(check=check, argument=argument)


def must_not(check: str, argument: str = "") -> Condition:
    """Return the condition that the check says no."""
    return Condition(check=check, argument=argument, negated=True)
