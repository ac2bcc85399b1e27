"""Plans: which conditions to try for an event, sorted so that most events need the fewest.

Rules and steps of sequences with the same gates share them: they run once per event, and only what
passes them needs its process. What the program checks say is remembered for each program, launcher
and parent: a machine runs the same few thousand of them over and over. Of what is left, a plan with
literals is tried only if one of them is in the event's text, which is searched once for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec

from actors.detection.anchors import every_literal
from actors.detection.compiler import Compiled, Compiler, GateCheck
from actors.detection.conditions import EventType
from actors.detection.events import ExecEvent
from actors.detection.fields import searched_text
from actors.detection.literals import Literals
from actors.detection.observation import Observation
from actors.detection.programs import Program
from actors.detection.text import fold, is_short

_MAX_REMEMBERED = 4096
UNTIL = -1
"""In place of a step: the event that ends a sequence."""

Hit: TypeAlias = tuple[int, int]
"""(sequence, step) whose conditions an event met."""


class Plan(msgspec.Struct, frozen=True):
    """A rule or a step of a sequence, and what is left to check about its process."""

    number: int
    """Its place in the order in which plans are tried."""
    compiled: Compiled
    rule: int = -1
    """Index of the rule, or -1."""
    hit: Hit | None = None
    """The sequence and its step, or None."""

    def holds(self, seen: Observation) -> bool:
        """Whether every late check says yes."""
        for check in self.compiled.late_checks:  # noqa: SIM110 - all() would make a generator
            if not check(seen):
                return False
        return True


class _Entry(msgspec.Struct, frozen=True):
    """The plans for one program and launcher whose gates and program checks have passed."""

    always: tuple[Plan, ...]
    anchored: dict[int, Plan]
    """Those with literals, by number."""
    waiting: int
    """The same as bits."""


_Key: TypeAlias = tuple[int, Program, Program | None, Program | None, Program | None, str | None]
"""The groups that passed; the programs: its own, launcher, initiator, its parent's; and argv[0]."""
_NUMBER = attrgetter("number")


class Plans:
    """All plans for one type of event."""

    def __init__(
        self, plans: Iterable[Plan], compiler: Compiler, event: EventType, *, plain: bool = False
    ) -> None:
        self._compiler = compiler
        self._event = event
        groups: dict[tuple[GateCheck, ...], list[Plan]] = {}
        waiting: dict[str, list[int]] = {}
        for plan in plans:
            groups.setdefault(plan.compiled.gates, []).append(plan)
            literals = set(plan.compiled.literals)
            if plan.compiled.mixed is not None:
                literals |= every_literal(plan.compiled.mixed.condition, event)
            for literal in sorted(literals):
                waiting.setdefault(literal, []).append(plan.number)
        self._literals = Literals(waiting, plain=plain)
        self._groups = tuple(
            (1 << number, gates, tuple(group))
            for number, (gates, group) in enumerate(groups.items())
        )
        self._unanchored = sum(
            bit
            for bit, _, group in self._groups
            if not all(plan.compiled.literals for plan in group)
        )
        self._remembered: dict[_Key, _Entry] = {}
        # Known only now that the plans, made one by one above, are compiled.
        self.needs_parents = event in compiler.parents_asked

    def __len__(self) -> int:
        return sum(len(group) for _, _, group in self._groups)

    def passing(self, event: Any) -> int:
        """Return which groups may hold for an event, one bit each; this is the hot path."""
        passed = 0
        for bit, checks, _ in self._groups:
            for check in checks:
                if not check(event):
                    break
            else:
                passed |= bit
        return passed

    def waits(self, passed: int) -> bool:
        """Return whether all that passed waits for literals: then `find` before the process."""
        return not passed & self._unanchored

    def find(self, event: Any) -> int:
        """Return which plans' literals are in an event's text, one bit each."""
        return self._literals.find(fold(searched_text(event)))

    def of(self, passed: int, seen: Observation, hits: int | None = None) -> Iterable[Plan]:
        """Return the plans left to try, in their order; ``hits`` of `find`, if it was asked."""
        event = seen.event
        argv0: str | None = None
        if isinstance(event, ExecEvent) and event.argv:
            argv0 = event.argv[0]
            if fold(argv0) not in self._compiler.argv0_names:
                argv0 = argv0 if self._compiler.argv0_matters else ""  # like any other
        key = (passed, seen.program, seen.launcher, seen.initiator, seen.parent_program, argv0)
        entry = self._remembered.get(key)
        if entry is None:
            entry = self._learn(key, seen)
        if not entry.waiting:
            return entry.always
        hits = (self.find(event) if hits is None else hits) & entry.waiting
        if not hits:
            return entry.always
        found = list(entry.always)
        while hits:
            lowest = hits & -hits
            found.append(entry.anchored[lowest.bit_length() - 1])
            hits ^= lowest
        found.sort(key=_NUMBER)
        return found

    def _learn(self, key: _Key, seen: Observation) -> _Entry:
        passed = key[0]
        plans = [
            left
            for bit, _, group in self._groups
            for plan in group
            if passed & bit
            and all(check(seen) for check in plan.compiled.program_checks)
            and (left := self._left_of(plan, seen)) is not None
        ]
        plans.sort(key=_NUMBER)
        entry = _Entry(
            always=tuple(plan for plan in plans if not plan.compiled.literals),
            anchored={plan.number: plan for plan in plans if plan.compiled.literals},
            waiting=sum(1 << plan.number for plan in plans if plan.compiled.literals),
        )
        if seen.program.short and is_short(key[-1] or ""):
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = entry
        return entry

    def _left_of(self, plan: Plan, seen: Observation) -> Plan | None:
        """The plan, with what the program decides left out; None if that decides against it."""
        mixed = plan.compiled.mixed
        if mixed is None:
            return plan
        rest = self._compiler.rest(mixed, self._event, seen)
        return None if rest is None else Plan(plan.number, rest, plan.rule, plan.hit)
