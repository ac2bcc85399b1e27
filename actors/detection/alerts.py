"""Alerts: what a rule or a sequence says about one process."""

from __future__ import annotations

import errno
from string import Template

import msgspec

from actors.detection.correlator import Chain
from actors.detection.events import (
    ConnectEvent,
    ExecEvent,
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
    """Type of the deciding event: exec, open or connect."""
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


_SENTENCES: dict[type, str] = {
    ExecEvent: "$program ran: $arguments",
    OpenEvent: "$program opened $target",
    ConnectEvent: "$program $outcome $target",
}


def event_text(event: ExecEvent | OpenEvent | ConnectEvent) -> str:
    """Return what an event was about: the program, the file or the address. Not yet printable."""
    match event:
        case ExecEvent():
            return event.filename or event.exe
        case OpenEvent():
            return f"{event.origin} (seen as {event.filename})" if event.origin else event.filename
        case ConnectEvent():
            host = f"[{event.dest_ip}]" if ":" in event.dest_ip else event.dest_ip
            return f"{host}:{event.dest_port}"


def rule_detail(template: str, seen: Observation) -> str:
    """Fill in a rule's sentence; the words are ``program launcher target arguments note outcome``.

    A word that is not among them stays as it is. A rule without one has that of its event.
    """
    event = seen.event
    template = template or _SENTENCES[type(event)]
    facts = {
        "program": _called(seen.program),
        "launcher": "an unknown program" if seen.launcher is None else _called(seen.launcher),
        "target": _word(event_text(event)),
        "note": seen.note,
        "arguments": _word(" ".join(event.argv)) if isinstance(event, ExecEvent) else "",
        "outcome": _outcome(event.error) if isinstance(event, ConnectEvent) else "",
    }
    return printable(Template(template).safe_substitute(facts), limit=_MAX_DETAIL)


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


def _outcome(error: int) -> str:
    if error in _CONNECTED:
        return "connected to"
    return f"failed ({errno.errorcode.get(error, error)}) to connect to"


def _word(text: str) -> str:
    return printable(text, limit=_MAX_WORD)
