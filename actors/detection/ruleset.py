"""The rule set: rules and sequences compiled together, shared by the engines of many hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from actors.detection.compiler import Compiled, Compiler
from actors.detection.conditions import (
    EVENT_TYPES,
    Condition,
    EventType,
    Not,
    RuleError,
    all_of,
    tests_of,
)
from actors.detection.fields import field, value_of
from actors.detection.groups import EVENTS_MAX
from actors.detection.observation import TYPE_OF, Observation
from actors.detection.plans import UNTIL, Hit, Plan, Plans
from actors.detection.programs import Programs
from actors.detection.rules import AnyRule, Exclusion, Match, Rule, Sequence
from actors.detection.settings import FilterSettings


class RuleSet:
    """Rules ready to run; holds nothing of any host.

    Args:
        settings: What is a shell, what is sensitive, whom to believe.
        rules: In the order in which their alerts are raised for one event.

    Raises:
        RuleError: A rule or sequence cannot work as written; the message begins with its id.
    """

    def __init__(self, settings: FilterSettings, rules: Iterable[AnyRule]) -> None:
        everything = tuple(rules)
        _check_unique(everything)
        self.settings = settings
        self.rules = tuple(each for each in everything if isinstance(each, Rule))
        self.sequences = tuple(each for each in everything if isinstance(each, Sequence))
        self.grouped = frozenset(
            index for index, each in enumerate(self.sequences) if not each.plain
        )
        """The sequences that `groups.py` follows."""
        self.programs = Programs()
        self._compiler = Compiler(settings)
        for sequence in self.sequences:
            _check_sequence(sequence, most=settings.correlator_max_events)
            self._note_shared(sequence)
        self.ignored = self._compiler.names("ignored_comms")
        self.pass_through = self._compiler.names("pass_through")
        self.launchers = self._compiler.names("safe_shell_launchers")
        self.plans: dict[EventType, Plans] = {}
        for event in EVENT_TYPES:
            numbered = enumerate(self._compiled(event))
            plans = (Plan(number, *each) for number, each in numbered)
            self.plans[event] = Plans(plans, self._compiler, event)
        self.needs_command_lines = self._compiler.needs_command_lines

    def window_secs(self, rule: AnyRule) -> int:
        """Return how far back a rule looks: a single event's lineage and score have a past too."""
        usual = self.settings.correlator_max_age_secs
        return max(usual, (rule.window_secs or 0) if isinstance(rule, Sequence) else 0)

    def holds(self, condition: Condition, event: EventType, seen: Observation) -> bool:
        """Return whether a condition, or a part of one, holds for an event; for explanations."""
        return self._compiler.check(condition, event)(seen)

    def values(
        self, index: int, step: int, seen: Observation
    ) -> tuple[tuple[str, ...], str] | None:
        """Return what groups an event of a sequence, and what it adds; None if it lacks a value."""
        sequence = self.sequences[index]
        event: EventType = TYPE_OF[type(seen.event)]
        wanted = (*sequence.steps[step].by, *([sequence.distinct] if sequence.distinct else ()))
        found = []
        for name in wanted:
            asked = field(event, name)
            value = None if asked is None else value_of(asked, seen)
            if value is None:
                return None
            found.append(str(value))
        return (tuple(found[:-1]), found[-1]) if sequence.distinct else (tuple(found), "")

    def _compiled(self, event: EventType) -> Iterator[tuple[Compiled, int, Hit | None]]:
        for index, rule in enumerate(self.rules):
            for compiled in self._of(rule, rule.matches, event, unless=rule.exclusions):
                yield compiled, index, None
        for index, sequence in enumerate(self.sequences):
            for compiled in self._of(sequence, sequence.until, event):
                yield compiled, -1, (index, UNTIL)
            # Later steps first: an event must not be two steps of one match.
            for number, step in reversed(list(enumerate(sequence.steps))):
                for compiled in self._of(sequence, step.matches, event, unless=sequence.exclusions):
                    yield compiled, -1, (index, number)

    def _of(
        self,
        rule: AnyRule,
        matches: Iterable[Match],
        event: EventType,
        *,
        unless: Iterable[Exclusion] = (),
    ) -> Iterator[Compiled]:
        nots = [Not(each.when) for each in unless]
        for match in matches:
            if match.event != event:
                continue
            try:
                when = _with(match.when, nots)
                tests_of(when)  # refuses what is nested too deeply
                compiled = self._compiler.compile(when, event)
            except RuleError as error:
                raise RuleError(f"{rule.id}: {error}") from error
            if compiled is not None:
                yield compiled

    def _note_shared(self, sequence: Sequence) -> None:
        """Have engines remember what groups the events of a sequence."""
        for step in sequence.steps:
            for match in step.matches:
                for name in (*step.by, *([sequence.distinct] if sequence.distinct else ())):
                    self._compiler.asks(match.event, name)


def _with(when: Condition, unless: list[Not]) -> Condition:
    return all_of([when, *unless]) if unless else when


def _check_unique(rules: tuple[AnyRule, ...]) -> None:
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise RuleError(f"{rule.id}: two rules have this id")
        seen.add(rule.id)


def _check_sequence(sequence: Sequence, *, most: int) -> None:
    """Refuse a sequence that cannot work."""
    name, steps = sequence.id, sequence.steps
    if len(steps) * sequence.count < 2:
        raise RuleError(f"{name}: one event is no sequence; write a rule")
    if sequence.count > 1 and len(steps) > 1:
        raise RuleError(f"{name}: only a sequence of one step can be counted")
    most = most if sequence.plain else EVENTS_MAX
    if max(sequence.count, len(steps)) > most:
        raise RuleError(f"{name}: needs more than {most} events remembered")
    if sequence.distinct and len(steps) > 1:
        raise RuleError(f"{name}: distinct values can be counted in a sequence of one step only")
    if len({len(step.by) for step in steps}) > 1:
        raise RuleError(f"{name}: every step needs as many fields to group by as the others")
    for step in steps:
        for match in step.matches:
            for wanted in (*step.by, *([sequence.distinct] if sequence.distinct else ())):
                if field(match.event, wanted) is None:
                    raise RuleError(f"{name}: {match.event} events have no field {wanted!r}")
