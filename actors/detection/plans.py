"""Plans: which conditions to try for an event, sorted so that most events need the fewest.

Rules and steps of sequences with the same event checks share them: they run once per event, and
only what passes them needs its process. What the program checks say is remembered for each program
and launcher: a machine runs the same few thousand pairs over and over.
"""

from __future__ import annotations

import msgspec

from actors.detection.checks import Checks, EventCheck, Observation, ProcessCheck
from actors.detection.conditions import Condition, EventType, RuleError
from actors.detection.correlator import Hit
from actors.detection.programs import Program
from actors.detection.rules import Rule
from actors.detection.sequences import Sequence

_MAX_REMEMBERED = 2048


class Plan(msgspec.Struct, frozen=True):
    """A rule or a step of a sequence, and what is left to check about its process."""

    program_checks: tuple[ProcessCheck, ...]
    process_checks: tuple[ProcessCheck, ...]
    rule: int = -1
    """Index of the rule, or -1."""
    hit: Hit | None = None
    """The sequence and its step, or None."""

    def holds(self, seen: Observation) -> bool:
        """Whether every process check says yes."""
        for check in self.process_checks:  # noqa: SIM110 - all() would make a generator each time
            if not check(seen):
                return False
        return True


class Plans:
    """All plans for one type of event."""

    def __init__(
        self,
        event: EventType,
        checks: Checks,
        *,
        rules: tuple[Rule, ...],
        sequences: tuple[Sequence, ...],
    ) -> None:
        groups: dict[tuple[EventCheck, ...], list[Plan]] = {}

        def add(when: tuple[Condition, ...], rule: int = -1, hit: Hit | None = None) -> None:
            compiled = checks.compile(when, event)
            plan = Plan(compiled.program_checks, compiled.process_checks, rule, hit)
            groups.setdefault(compiled.event_checks, []).append(plan)

        for index, rule in enumerate(rules):
            if rule.event == event:
                add(rule.when, rule=index)
        for index, sequence in enumerate(sequences):
            # Later steps first: an event must not be two steps of one match.
            for number, step in reversed(list(enumerate(sequence.steps))):
                if step.event == event:
                    add(step.when, hit=(index, number))
        self._groups = tuple(
            (1 << number, each, tuple(plans)) for number, (each, plans) in enumerate(groups.items())
        )
        self._remembered: dict[tuple[int, Program, Program | None], tuple[Plan, ...]] = {}

    def passing(self, event: object) -> int:
        """Return which groups' event checks all say yes, one bit each; this is the hot path."""
        passed = 0
        for bit, checks, _ in self._groups:
            for check in checks:
                if not check(event):
                    break
            else:
                passed |= bit
        return passed

    def of(self, passed: int, seen: Observation) -> tuple[Plan, ...]:
        """Return the plans of groups that passed whose program checks all say yes too."""
        key = (passed, seen.program, seen.launcher)
        plans = self._remembered.get(key)
        if plans is None:
            plans = tuple(
                plan
                for bit, _, group in self._groups
                for plan in group
                if passed & bit and all(check(seen) for check in plan.program_checks)
            )
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = plans
        return plans


def check_unique(rules: tuple[Rule, ...], sequences: tuple[Sequence, ...]) -> None:
    """Refuse two rules or sequences with one id.

    Raises:
        RuleError: Names the id.
    """
    seen: set[str] = set()
    for name in (*(rule.id for rule in rules), *(sequence.id for sequence in sequences)):
        if name in seen:
            raise RuleError(f"two rules are called {name!r}")
        seen.add(name)
