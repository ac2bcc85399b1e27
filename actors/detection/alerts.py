"""Alerts: what a rule or a sequence says about one process."""

from __future__ import annotations

import errno
from collections.abc import Callable
from string import Template

import msgspec

from actors.detection.addresses import plain
from actors.detection.complaints import did_you_mean
from actors.detection.conditions import RuleError
from actors.detection.correlator import Chain
from actors.detection.events import (
    ConnectEvent,
    ExecEvent,
    FloodEvent,
    Identity,
    Level,
    LineageProcess,
    OpenEvent,
)
from actors.detection.observation import Observation
from actors.detection.programs import Program
from actors.detection.text import printable

_MAX_DETAIL = 512
_MAX_WORD = 200
_CONNECTED = (0, errno.EINPROGRESS)
_UNIX = 1


class Alert(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A rule matched; the process is the one whose event decided it.

    ``detail`` and ``ancestry`` are printable. ``comm`` and ``exe`` are as the kernel gave them:
    good for comparing, hostile on a terminal.
    """

    time_ns: int
    """Time of the deciding event."""
    pid: int
    start_ns: int
    uid: int
    comm: str
    exe: str
    """Empty when unknown."""
    system_exe: bool
    """The executable is the system's own, so its name can be believed."""
    rule: str
    """The label people know."""
    rule_id: str
    techniques: tuple[str, ...]
    detail: str
    ancestry: str
    score: int
    """Score of the process, this alert included."""
    severity: str
    """INFO, WARNING, HIGH or CRITICAL."""
    base_score: int
    lineage_bonus: int
    rarity_bonus: int
    sequence_bonus: int
    event: str
    """Type of the deciding event: exec, open, connect or flood."""
    level: Level = "medium"
    """How serious the rule is by itself."""
    author: str = ""
    """Who wrote the rule."""
    references: tuple[str, ...] = ()
    lineage: Identity = (0, 0)
    """The first process of the lineage to which it belongs."""
    window_secs: int = 0
    """How far back it looked: what was missed since then may be missing from it."""
    count: int = 1
    """How often this rule has fired in this lineage."""
    first: bool = True
    """Whether it begins an alert of its own; else it repeats one of this rule, lineage, target."""
    told: bool = True
    """Whether it is worth telling; the other repeats are only counted."""
    target: str = ""
    """What its repeats have in common, as a digest; empty for all that is not told for itself."""
    processes: tuple[LineageProcess, ...] = ()
    """The process and its ancestors as far as they are known, oldest first."""
    targets: tuple[str, ...] = ()
    """The distinct files, addresses or programs that the rule matched in this lineage, printable,
    the newest last, at most 16."""

    @property
    def identity(self) -> Identity:
        """The process the alert is about."""
        return (self.pid, self.start_ns)


_WITNESSED = "(seen by the mark on the file, by no probe)"
_SENTENCES: dict[type, str] = {
    ExecEvent: "$program ran: $arguments",
    OpenEvent: "$program opened $target",
    ConnectEvent: "$program $outcome $target",
    FloodEvent: "$program made too many $target: $counts",
}


def event_text(event: ExecEvent | OpenEvent | ConnectEvent | FloodEvent) -> str:
    """Return what an event was about: program, file, address or calls. Not yet printable."""
    match event:
        case ExecEvent():
            return event.filename or event.exe
        case OpenEvent():
            return f"{event.origin} (seen as {event.filename})" if event.origin else event.filename
        case ConnectEvent():
            if event.af == _UNIX:
                return f"unix:{event.path}"
            address = plain(event.dest_ip)
            host = f"[{address}]" if ":" in address else address
            return f"{host}:{event.dest_port}"
        case FloodEvent():
            return f"{event.probe} calls{' that failed' if event.failed else ''}"


def check_detail(template: str) -> None:
    """Refuse a rule's sentence that asks for a word that is not there.

    Raises:
        RuleError: Such a word.
    """
    for word in Template(template).get_identifiers():
        if word not in _FACTS:
            known = ", ".join(f"${each}" for each in _FACTS)
            raise RuleError(
                f"detail: there is no ${word}, only {known}{did_you_mean(word, _FACTS)};"
                " a dollar sign itself is $$"
            )


def rule_detail(template: str, seen: Observation) -> str:
    """Fill in a rule's sentence; its words are those of `docs/RULES.md`.

    A word that is not among them stays as it is. A rule without a sentence has that of its event.
    """
    event = seen.event
    template = template or _SENTENCES[type(event)]
    made = Template(template)
    facts = {word: _FACTS[word](seen) for word in made.get_identifiers() if word in _FACTS}
    told = made.safe_substitute(facts)
    if isinstance(event, OpenEvent) and event.witness:
        told += f" {_WITNESSED}"
    return printable(told, limit=_MAX_DETAIL)


def sequence_detail(links: Chain) -> str:
    """Say what happened, in order: ``in 3.2 s: exec /bin/bash (pid 7), connect …``."""
    seconds = (links[-1].time_ns - links[0].time_ns) / 1e9
    steps = ", ".join(f"{each.type} {_word(each.text)} (pid {each.pid})" for each in links)
    return printable(f"in {seconds:.1f} s: {steps}", limit=_MAX_DETAIL)


def with_left_out(detail: str, left_out: int) -> str:
    """Add to a sentence how many targets have no alert of their own."""
    if not left_out:
        return detail
    return f"{detail} (the rule's {left_out} targets beyond those told before are one alert)"


def _called(program: Program) -> str:
    return _word(program.key) or "an unnamed program"


def _contact(seen: Observation, name: str) -> str:
    return "" if seen.contact is None else _word(getattr(seen.contact, name))


def _through(seen: Observation) -> str:
    """Name the pass-through program between the initiator and the program, if there is one."""
    launcher = seen.launcher
    return "" if launcher is None or launcher is seen.initiator else f" through {_called(launcher)}"


def _outcome(error: int) -> str:
    if error in _CONNECTED:
        return "connected to"
    return f"failed ({errno.errorcode.get(error, error)}) to connect to"


def _word(text: str) -> str:
    return printable(text, limit=_MAX_WORD)


def _arguments(seen: Observation) -> str:
    event = seen.event
    return _word(" ".join(event.argv)) if isinstance(event, ExecEvent) else ""


def _connected(seen: Observation) -> str:
    event = seen.event
    return _outcome(event.error) if isinstance(event, ConnectEvent) else ""


def _claimed(seen: Observation) -> str:
    event = seen.event
    return _word(event.claimed) if isinstance(event, ConnectEvent) else ""


def _counts(seen: Observation) -> str:
    event = seen.event
    if not isinstance(event, FloodEvent):
        return ""
    lost = f", {event.lost} lost" if event.lost else ""
    return f"{event.throttled} left out{lost} in {event.span_ns / 1e9:.1f} s"


def _called_if_known(program: Program | None) -> str:
    return "an unknown program" if program is None else _called(program)


_FACTS: dict[str, Callable[[Observation], str]] = {
    "program": lambda seen: _called(seen.program),
    "launcher": lambda seen: _called_if_known(seen.launcher),
    "initiator": lambda seen: _called_if_known(seen.initiator),
    "through": _through,
    "peer": lambda seen: _contact(seen, "peer"),
    "listens": lambda seen: _contact(seen, "listens"),
    "target": lambda seen: _word(event_text(seen.event)),
    "note": lambda seen: seen.note,
    "arguments": _arguments,
    "outcome": _connected,
    "claimed": _claimed,
    "counts": _counts,
    "user": lambda seen: _word(getattr(seen.event, "user", "")),
}
"""The words that a rule's sentence may have."""
