"""The compiler: conditions become functions, sorted by what they need to be asked.

Gates need nothing but a few numbers of the event and run first; program checks are about the
program and its launcher alone, so that their answer can be remembered; late checks come last.
*Literals* are texts of which one must be in the event's text for the condition to hold: they are
searched for all rules at once, and a rule whose literals are not there is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from actors.detection import predicates
from actors.detection.aliases import with_aliases
from actors.detection.anchors import anchor_of, selectivity
from actors.detection.conditions import (
    AllOf,
    AnyOf,
    Condition,
    EventType,
    Not,
    RuleError,
    Test,
    all_of,
    any_of,
    tests_of,
)
from actors.detection.events import OpenEvent
from actors.detection.fields import About, Field, field, value_of
from actors.detection.names import NameList
from actors.detection.observation import Observation
from actors.detection.paths import SensitivePaths
from actors.detection.predicates import Predicate
from actors.detection.purposes import Purposes
from actors.detection.settings import FilterSettings
from actors.detection.text import fold

GateCheck: TypeAlias = Callable[[Any], bool]
Check: TypeAlias = Callable[[Observation], bool]

_MADE_MAX = 65_536
_O_DIRECTORY = 0o200000  # x86-64, as the kernel says it


class Mixed(msgspec.Struct, frozen=True):
    """A condition of which a part is about the program alone."""

    condition: Condition
    asked: Check | None = None
    """Answers all of it, if all of it is about the program."""
    parts: tuple[Mixed, ...] = ()
    """What it joins, if only a part is; else none of it is."""


class Compiled(msgspec.Struct, frozen=True):
    """A condition ready to run."""

    gates: tuple[GateCheck, ...]
    """Of the raw event."""
    program_checks: tuple[Check, ...]
    late_checks: tuple[Check, ...]
    literals: tuple[str, ...]
    """Folded; one is in the folded `searched_text` if the condition holds. Empty: unknown."""
    mixed: Mixed | None = None
    """What the late checks ask, if a part is about the program alone: once that is known, less
    is left to ask."""


class Compiler:
    """Compiles conditions for one set of settings; equal tests share one function.

    Args:
        settings: what the lists are that ``listed`` and ``trusted`` name.
    """

    def __init__(self, settings: FilterSettings) -> None:
        self.parents_asked: set[EventType] = set()
        """Types of events with conditions about what the parent runs."""
        self.argv0_names: set[str] = set()
        """What a program may be told that it is called, in lower case, and conditions ask for."""
        self.argv0_matters = False
        """Whether conditions ask more of that than whether it is one of these."""
        self._settings = settings
        self._paths: dict[str, SensitivePaths] = {}
        self._names: dict[str, NameList] = {}
        self._purposes: dict[str, Purposes] = {}
        self._made: dict[tuple[EventType, Condition], Check] = {}
        self._gates: dict[tuple[EventType, Condition], GateCheck] = {}
        self.needs_command_lines = False
        """Whether a condition asks for the command line of a process that is not just starting."""

    def compile(self, condition: Condition, event: EventType) -> Compiled | None:
        """Prepare a condition on one type of event; None if it can never hold there.

        Raises:
            RuleError: A field is unknown, or is compared with what does not suit it.
        """
        terms = condition.of if isinstance(condition, AllOf) else (condition,)
        gates: list[GateCheck] = []
        checks: dict[About, list[Check]] = {"event": [], "program": [], "process": []}
        last: list[Check] = []
        anchors: list[tuple[str, ...]] = []
        late: list[Condition] = []
        mixed = False
        for term in terms:
            if self._is_gate(term, event):
                gates.append(self._gate(term, event))
                continue
            fields = _fields(term, event)
            if isinstance(term, Test) and not fields and _never_without(term):
                return None
            check = self.check(term, event)
            about = _about(fields)
            if any(each.last for each in fields):
                last.append(check)
            else:
                checks[about].append(check)
            if about != "program":
                late.append(term)
                mixed = mixed or any(each.about == "program" for each in fields)
            if anchor := anchor_of(term, event):
                anchors.append(anchor)
        return Compiled(
            gates=tuple(gates),
            program_checks=tuple(checks["program"]),
            late_checks=(*checks["event"], *checks["process"], *last),
            literals=max(anchors, key=selectivity, default=()),
            mixed=self._parted(all_of(late), event) if mixed else None,
        )

    def rest(self, mixed: Mixed, event: EventType, seen: Observation) -> Compiled | None:
        """Return what is left to ask of a mixed condition, the program being known; None: it fails.

        Args:
            mixed: Of `Compiled`.
            event: The type of event.
            seen: Any event of the program and launcher.
        """
        left = _fold(mixed, seen)
        if isinstance(left, bool):
            return Compiled((), (), (), ()) if left else None
        terms = left.of if isinstance(left, AllOf) else (left,)
        anchors = filter(None, (anchor_of(term, event) for term in terms))
        return Compiled(
            gates=(),
            program_checks=(),
            late_checks=tuple(
                self.check(term, event)
                for term in sorted(terms, key=lambda each: _last(each, event))
            ),
            literals=max(anchors, key=selectivity, default=()),
        )

    def _parted(self, condition: Condition, event: EventType) -> Mixed:
        """Part a condition into what is about the program and what is not, once for all."""
        kinds = {each.about == "program" for each in _fields(condition, event)}
        if kinds == {True}:
            return Mixed(condition, asked=self.check(condition, event))
        if kinds != {True, False} or isinstance(condition, Test):
            return Mixed(condition)
        parts = (condition.of,) if isinstance(condition, Not) else condition.of
        return Mixed(condition, parts=tuple(self._parted(each, event) for each in parts))

    def names(self, setting: str) -> NameList:
        """Return the compiled list of that name; there is one of each.

        Raises:
            RuleError: ``[filters]`` has no such list of names.
        """
        if setting not in self._names:
            self._names[setting] = NameList(self._list(setting, str))
        return self._names[setting]

    # Tests

    def _is_gate(self, term: Condition, event: EventType) -> bool:
        test = term.of if isinstance(term, Not) else term
        if not isinstance(test, Test) or test.op in {"exists", "same_as"}:
            return False
        found = field(event, test.field)
        if found is None or found.last:
            return False
        return found.gate or (found.kind == "file" and test.op == "listed")

    def _gate(self, term: Condition, event: EventType) -> GateCheck:
        key = (event, term)
        if key not in self._gates:
            if isinstance(term, Not):
                self._gates[key] = _negated(self._gate(term.of, event))
            elif isinstance(term, Test):
                found = field(event, term.field)
                if found is None:
                    raise RuleError(f"{event} events have no field {term.field!r}")
                self._gates[key] = self._of_event(term, found)
        return self._gates[key]

    def check(self, condition: Condition, event: EventType) -> Check:
        """Return the function that asks a condition of an observation; equal ones share it."""
        key = (event, condition)
        made = self._made.get(key)
        if made is None:
            made = self._make(condition, event)
            if len(self._made) >= _MADE_MAX:  # what is left of conditions differs by program
                self._made.clear()
            self._made[key] = made
        return made

    def _make(self, condition: Condition, event: EventType) -> Check:
        match condition:
            case Not():
                return _negated(self.check(condition.of, event))
            case AllOf():
                return _every(tuple(self.check(each, event) for each in condition.of))
            case AnyOf():
                return _some(tuple(self.check(each, event) for each in condition.of))
        return self._test(condition, event)

    def _test(self, test: Test, event: EventType) -> Check:
        found = self.asks(event, test.field)
        if test.op == "exists":
            if len(test.values) != 1 or not isinstance(test.values[0], bool):
                raise RuleError(f"{test.field}: exists is true or false, and nothing else")
            wanted = test.values[0]
            if found is None:
                return lambda _seen: not wanted
            self.argv0_matters = self.argv0_matters or test.field == "argv.0"
            value = _of_observation(found)
            return lambda seen: (value(seen) is not None) is wanted
        if found is None:
            return lambda _seen: False
        if test.field == "argv.0" and test.op == "equals":
            self.argv0_names.update(fold(str(value)) for value in test.values)
        elif "argv.0" in (test.field, test.values[0]):
            self.argv0_matters = True
        if test.op == "same_as":
            return self._same_as(test, found, event)
        return self._about_value(test, found, event)

    def asks(self, event: EventType, name: str) -> Field | None:
        """Return a field, and take note of what engines must remember so that it has a value.

        Raises:
            RuleError: No type of event has it.
        """
        found = field(event, name)
        if found is not None:
            if name in {"parent.exe", "parent.comm"}:
                self.parents_asked.add(event)
            if found.about == "process" and name.endswith("command_line"):
                self.needs_command_lines = True
        return found

    def _about_value(self, test: Test, found: Field, event: EventType) -> Check:
        if _depends_on_file(test, found, event):
            return self._may_open(test, found)
        if found.gate or (found.kind == "file" and test.op == "listed"):
            holds = self._of_event(test, found)
            return lambda seen: holds(seen.event)
        predicate = self._predicate(test, found)
        if found.kind in {"text", "file"} and predicates.takes_folded(test):
            return _on_folded(test.field, _of_observation(found), predicate)
        return _guarded(_of_observation(found), predicate)

    def _of_event(self, test: Test, found: Field) -> GateCheck:
        """What needs the event alone: a gate, wherever in the condition it stands."""
        if found.kind == "file" and test.op == "listed":
            return self._opens_listed(str(test.values[0]))
        predicate = self._predicate(test, found)
        if found.kind == "text" and predicates.takes_folded(test):
            return _guarded(lambda event: _folded(found.get(event)), predicate)
        return _guarded(found.get, predicate)

    def _same_as(self, test: Test, found: Field, event: EventType) -> Check:
        asked = (self.asks(event, str(name)) for name in test.values)
        others = tuple(other for other in asked if other is not None)
        cased = test.cased

        def comparable(value: Any) -> Any:
            return fold(value) if isinstance(value, str) and not cased else value

        def holds(seen: Observation) -> bool:
            own = comparable(value_of(found, seen))
            return own is not None and any(
                own == comparable(value_of(other, seen)) for other in others
            )

        return holds

    def _predicate(self, test: Test, found: Field) -> Predicate:
        test = with_aliases(test)
        if test.op in {"listed", "trusted"}:
            return self._on_list(test, found)
        match found.kind:
            case "text" | "file":
                return predicates.text_predicate(test)
            case "words":
                return predicates.words_predicate(test)
            case "program" | "programs":
                words = predicates.words_predicate(test)
                of_one: Predicate = lambda program: words(program.names)  # noqa: E731 - typed
                return _of_some(of_one) if found.kind == "programs" else of_one
            case "number" | "port":
                return predicates.number_predicate(test)
            case "flag":
                return predicates.flag_predicate(test)

    def _on_list(self, test: Test, found: Field) -> Predicate:
        name = str(test.values[0])
        if len(test.values) != 1:
            raise RuleError(f"{test.field}: {test.op!r} takes the name of one list")
        match found.kind, test.op:
            case "program", "trusted":
                return self.names(name).trusts
            case "program", "listed":
                return self.names(name).detects
            case "programs", "trusted":
                return _of_some(self.names(name).trusts)
            case "port", "listed":
                ports = frozenset(self._list(name, int))
                return lambda port: port in ports
        raise RuleError(f"{test.field}: {test.op!r} does not suit it")

    def _may_open(self, test: Test, found: Field) -> Check:
        """Whether a program is trusted with the very file that it opens."""
        setting, get = str(test.values[0]), found.get
        if setting not in self._purposes:
            self._purposes[setting] = Purposes(self._list(setting, str))
        trusts = self._purposes[setting].trusts
        return lambda seen: isinstance(seen.event, OpenEvent) and trusts(get(seen), seen.event)

    def _opens_listed(self, setting: str) -> GateCheck:
        """Whether an opened file is on a list, wherever it is mounted; folders are no files."""
        if setting not in self._paths:
            self._paths[setting] = SensitivePaths(self._list(setting, str))
        paths = self._paths[setting]

        def opens(event: OpenEvent) -> bool:
            if event.resolved:
                if event.flags & _O_DIRECTORY:
                    return False
                matches = paths.matches
                return matches(event.filename) or (event.origin != "" and matches(event.origin))
            return paths.matches_unresolved(event.filename)

        return opens

    def _list(self, setting: str, kind: type) -> tuple[Any, ...]:
        entries = getattr(self._settings, setting, None)
        if not isinstance(entries, tuple) or not all(isinstance(each, kind) for each in entries):
            what = "ports" if kind is int else "names"
            raise RuleError(f"{setting!r} is not a list of {what} in [filters]")
        return entries


def _fold(mixed: Mixed, seen: Observation) -> Condition | bool:
    """Replace every part about the program by its answer."""
    if mixed.asked is not None:
        return mixed.asked(seen)
    if not mixed.parts:
        return mixed.condition
    if isinstance(mixed.condition, Not):
        inner = _fold(mixed.parts[0], seen)
        return not inner if isinstance(inner, bool) else Not(inner)
    stops = isinstance(mixed.condition, AnyOf)  # what decides the whole
    left = []
    for each in mixed.parts:
        part = _fold(each, seen)
        if not isinstance(part, bool):
            left.append(part)
        elif part is stops:
            return stops
    if not left:
        return not stops
    return any_of(left) if stops else all_of(left)


def _fields(condition: Condition, event: EventType) -> list[Field]:
    return [
        msgspec.structs.replace(found, about="process")
        if _depends_on_file(test, found, event)
        else found
        for test in tests_of(condition)
        for name in _names(test)
        if (found := field(event, name)) is not None
    ]


def _depends_on_file(test: Test, found: Field, event: EventType) -> bool:
    """Whether the answer is about the program and the file that it opens."""
    return event == "open" and test.op == "trusted" and found.kind == "program"


def _names(test: Test) -> tuple[str, ...]:
    """The fields that a test asks for."""
    return (test.field, *map(str, test.values)) if test.op == "same_as" else (test.field,)


def _never_without(test: Test) -> bool:
    """Whether a test never holds for an event that has no such field."""
    return test.op != "exists" or test.values[0] is True


def _last(condition: Condition, event: EventType) -> bool:
    return any(each.last for each in _fields(condition, event))


def _about(fields: list[Field]) -> About:
    kinds = {each.about for each in fields}
    return kinds.pop() if len(kinds) == 1 else "process" if kinds else "event"


def _of_observation(found: Field) -> Callable[[Observation], Any]:
    get = found.get
    return (lambda seen: get(seen.event)) if found.about == "event" else get


def _folded(value: str | None) -> str | None:
    return None if value is None else fold(value)


def _on_folded(name: str, get: Callable[[Observation], str | None], predicate: Predicate) -> Check:
    """Ask about a text without regard to case, for which it is folded once per event."""

    def check(seen: Observation) -> bool:
        texts = seen.texts
        if texts is None:
            texts = seen.texts = {}
        if name in texts:
            value = texts[name]
        else:
            value = texts[name] = _folded(get(seen))
        return value is not None and predicate(value)

    return check


def _of_some(predicate: Predicate) -> Predicate:
    return lambda subjects: any(map(predicate, subjects))


def _guarded(get: Callable[[Any], Any], predicate: Predicate) -> Callable[[Any], bool]:
    def check(subject: Any) -> bool:
        value = get(subject)
        return value is not None and predicate(value)

    return check


def _every(checks: tuple[Check, ...]) -> Check:
    def check(seen: Observation) -> bool:
        for each in checks:  # noqa: SIM110 - all() would make a generator each time
            if not each(seen):
                return False
        return True

    return check


def _some(checks: tuple[Check, ...]) -> Check:
    def check(seen: Observation) -> bool:
        for each in checks:  # noqa: SIM110 - any() would make a generator each time
            if each(seen):
                return True
        return False

    return check


def _negated(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda subject: not check(subject)
