"""Rules and sequences, as data: what is looked for, what it means, and who says so.

A rule raises an alert when its condition holds for an event, once per process. A sequence raises
one when several events together fit. The label, points and meaning of the built-in ones are known
to people outside; change a condition, never a label.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from actors.detection.conditions import Condition, EventType
from actors.detection.events import Level

Status: TypeAlias = Literal["active", "disabled"]
Scope: TypeAlias = Literal["process", "lineage", "host"]

WINDOW_MAX_SECS = 366 * 86_400
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")]


class Match(msgspec.Struct, frozen=True):
    """A condition on one type of event."""

    event: EventType
    when: Condition


class Exclusion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a rule shall be silent about."""

    when: Condition
    owner: str
    """Who asked for it."""
    reason: str
    expires: str = ""
    """The last day it holds, ``2027-01-31``; empty for always."""


class RuleTest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Events that must, or must not, raise the rule's alert."""

    name: str
    matches: bool
    events: tuple[dict[str, object], ...]
    """One event each, in order; what is left out has the default of its type."""


class Described(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What people read about a rule."""

    id: Id
    """Stable, for exclusions and statistics."""
    label: str
    """The name people know; part of the id of its alerts."""
    title: str = ""
    description: str = ""
    author: str = ""
    references: tuple[str, ...] = ()
    level: Level = "medium"
    """How serious it is by itself."""
    points: int = 0
    """What it adds to the score of a process, once."""
    techniques: tuple[str, ...] = ()
    """MITRE ATT&CK technique ids."""
    status: Status = "active"
    source: Literal["lavender", "sigma"] = "lavender"
    exclusions: tuple[Exclusion, ...] = ()
    tests: tuple[RuleTest, ...] = ()


class Rule(Described, frozen=True, kw_only=True, tag="rule", omit_defaults=True):
    """What one event can tell."""

    matches: tuple[Match, ...]
    """One for each type of event it is about; any of them."""
    detail: str = ""
    """The alert's sentence; ``$words`` are filled in by ``alerts.py``."""
    silent: bool = False
    """Raises no alert itself: it is only a step of sequences."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of a sequence."""

    matches: tuple[Match, ...]
    by: tuple[str, ...] = ()
    """Fields whose values must be the same in every step; each step names its own, in order."""


class Sequence(Described, frozen=True, kw_only=True, tag="sequence", omit_defaults=True):
    """Steps within a time span, or one step several times."""

    steps: tuple[Step, ...]
    scope: Scope = "lineage"
    """Whose events belong together."""
    ordered: bool = True
    count: Annotated[int, Meta(ge=1)] = 1
    """How often the step must be seen; more than 1 only for a sequence of one step."""
    distinct: str = ""
    """A field: the step must be seen with ``count`` different values of it."""
    window_secs: Annotated[int, Meta(ge=1, le=WINDOW_MAX_SECS)] | None = None
    """Seconds from the first step to the last; None for ``correlator_max_age_secs``."""
    until: tuple[Match, ...] = ()
    """An event that ends whatever was begun."""

    @property
    def plain(self) -> bool:
        """Whether the correlator follows it: in order or counted, in one lineage, nothing else."""
        return (
            self.scope == "lineage"
            and self.ordered
            and not self.until
            and not self.distinct
            and not any(step.by for step in self.steps)
        )


AnyRule: TypeAlias = Rule | Sequence
