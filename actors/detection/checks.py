"""The checks that conditions name.

An *event check* needs nothing but the event; it runs before anything is looked up, so an event
that no rule wants costs almost nothing. A *program check* is about the program and, for an exec,
its launcher, and about nothing else: its answer can be remembered. A *process check* may look at
all there is, and remember what it saw.

Adding a check is one function and one line in the table at the end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from actors.detection.addresses import is_external
from actors.detection.conditions import Condition, EventType, RuleError
from actors.detection.events import ConnectEvent, ExecEvent, OpenEvent
from actors.detection.names import NameList
from actors.detection.obfuscation import find_obfuscation
from actors.detection.paths import SensitivePaths
from actors.detection.process_table import Process
from actors.detection.programs import Program
from actors.detection.settings import FilterSettings

ObservedEvent: TypeAlias = ExecEvent | OpenEvent | ConnectEvent

_AF_INET = (2, 10)
_O_ACCMODE = 3
_READING = (0, 2)
_O_PATH = 0o10000000
_MAX_CALLERS = 8192


class Observation(msgspec.Struct, gc=False):
    """An event with the process that did it."""

    event: ObservedEvent
    process: Process
    program: Program
    """What the process runs; for an exec, the new program."""
    launcher: Program | None = None
    """For an exec, the program that made it; None when nothing is known of it."""
    note: str = ""
    """What a check found, for the alert's sentence."""


EventCheck: TypeAlias = Callable[[Any], bool]
ProcessCheck: TypeAlias = Callable[[Observation], bool]


class Compiled(msgspec.Struct, frozen=True):
    """Conditions ready to run: all event checks first, then the program's, then the process's."""

    event_checks: tuple[EventCheck, ...]
    program_checks: tuple[ProcessCheck, ...]
    process_checks: tuple[ProcessCheck, ...]


class _Kind(msgspec.Struct, frozen=True):
    """One line of the table of checks."""

    make: Callable[[Checks, str], Callable[[Any], bool]]
    """Makes the check from its argument."""
    events: tuple[EventType, ...]
    """The events it can be asked about."""
    about: Literal["event", "program", "process"] = "event"
    """Which kind of check it is."""


class Checks:
    """Turns conditions into checks for one engine: its settings, and what its checks remember."""

    def __init__(self, settings: FilterSettings) -> None:
        self._settings = settings
        self._paths = SensitivePaths(settings.sensitive_files)
        self._names: dict[str, NameList] = {}
        self._compiled: dict[Condition, EventCheck | ProcessCheck] = {}
        self._callers: OrderedDict[str, None] = OrderedDict()
        self.callers_dropped = 0

    @property
    def callers(self) -> int:
        """Programs known to have used the network."""
        return len(self._callers)

    def names(self, setting: str) -> NameList:
        """Return the compiled list of that name; there is one of each."""
        if setting not in self._names:
            entries = getattr(self._settings, setting, None)
            if not isinstance(entries, tuple) or not all(isinstance(e, str) for e in entries):
                raise RuleError(f"{setting!r} is not a list of names in [filters]")
            self._names[setting] = NameList(entries)
        return self._names[setting]

    def compile(self, conditions: tuple[Condition, ...], event: EventType) -> Compiled:
        """Prepare conditions on one type of event; equal conditions share one check.

        Raises:
            RuleError: A check is unknown, has a wrong argument, or is not for this event.
        """
        checks: dict[str, list[Callable[[Any], bool]]] = {"event": [], "program": [], "process": []}
        for condition in conditions:
            kind = _CHECKS.get(condition.check)
            if kind is None or event not in kind.events:
                raise RuleError(f"there is no check {condition.check!r} for {event} events")
            checks[kind.about].append(self._check(condition, kind))
        return Compiled(*(tuple(each) for each in checks.values()))

    def is_first_call(self, observation: Observation) -> bool:
        """Whether this program was never seen on the network; from now on it was."""
        key = observation.program.key
        if key in self._callers:
            return False
        self._callers[key] = None
        if len(self._callers) > _MAX_CALLERS:
            self._callers.popitem(last=False)
            self.callers_dropped += 1
        return True

    def opens_sensitive(self, event: OpenEvent) -> bool:
        """Whether the opened file is on the list of sensitive files."""
        if event.resolved:
            matches = self._paths.matches
            return matches(event.filename) or (event.origin != "" and matches(event.origin))
        return self._paths.matches_unresolved(event.filename)

    def ports(self, setting: str) -> frozenset[int]:
        """Return the list of ports of that name."""
        entries = getattr(self._settings, setting, None)
        if not isinstance(entries, tuple) or not all(isinstance(e, int) for e in entries):
            raise RuleError(f"{setting!r} is not a list of ports in [filters]")
        return frozenset(entries)

    def _check(self, condition: Condition, kind: _Kind) -> Callable[[Any], bool]:
        if condition not in self._compiled:
            check = kind.make(self, condition.argument)
            self._compiled[condition] = _negate(check) if condition.negated else check
        return self._compiled[condition]


def _negate(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda subject: not check(subject)


def _succeeded(_checks: Checks, _argument: str) -> EventCheck:
    return lambda event: not event.error


def _reads(_checks: Checks, _argument: str) -> EventCheck:
    return lambda event: event.flags & _O_ACCMODE in _READING and not event.flags & _O_PATH


def _opens_sensitive(checks: Checks, _argument: str) -> EventCheck:
    return checks.opens_sensitive


def _over_ip(_checks: Checks, _argument: str) -> EventCheck:
    return lambda event: event.af in _AF_INET


def _to_external(_checks: Checks, _argument: str) -> EventCheck:
    return lambda event: is_external(event.dest_ip)


def _to_port_in(checks: Checks, argument: str) -> EventCheck:
    ports = checks.ports(argument)
    return lambda event: event.dest_port in ports


def _program_in(checks: Checks, argument: str) -> ProcessCheck:
    detects = checks.names(argument).detects
    return lambda seen: detects(seen.program)


def _program_called(_checks: Checks, argument: str) -> ProcessCheck:
    return lambda seen: argument in seen.program.names


def _program_trusted_in(checks: Checks, argument: str) -> ProcessCheck:
    trusts = checks.names(argument).trusts
    return lambda seen: trusts(seen.program)


def _launcher_trusted_in(checks: Checks, argument: str) -> ProcessCheck:
    trusts = checks.names(argument).trusts
    return lambda seen: seen.launcher is not None and trusts(seen.launcher)


def _first_network_call(checks: Checks, _argument: str) -> ProcessCheck:
    return checks.is_first_call


def _obfuscated(_checks: Checks, _argument: str) -> ProcessCheck:
    def check(seen: Observation) -> bool:
        event = seen.event
        if not isinstance(event, ExecEvent):
            return False
        # An interpreter that runs itself with -c (multiprocessing, ensurepip) hides nothing.
        itself = seen.launcher is not None and event.exe != "" and seen.launcher.exe == event.exe
        found = find_obfuscation(seen.program, event.argv, inline_code=not itself)
        seen.note = found or ""
        return found is not None

    return check


_ANY: tuple[EventType, ...] = ("exec", "open", "connect")
_CHECKS = {
    "succeeded": _Kind(_succeeded, _ANY),
    "reads": _Kind(_reads, ("open",)),
    "opens-sensitive": _Kind(_opens_sensitive, ("open",)),
    "over-ip": _Kind(_over_ip, ("connect",)),
    "to-external": _Kind(_to_external, ("connect",)),
    "to-port-in": _Kind(_to_port_in, ("connect",)),
    "program-in": _Kind(_program_in, _ANY, about="program"),
    "program-called": _Kind(_program_called, _ANY, about="program"),
    "program-trusted-in": _Kind(_program_trusted_in, _ANY, about="program"),
    "launcher-trusted-in": _Kind(_launcher_trusted_in, ("exec",), about="program"),
    "first-network-call": _Kind(_first_network_call, ("connect",), about="process"),
    "obfuscated": _Kind(_obfuscated, ("exec",), about="process"),
}
