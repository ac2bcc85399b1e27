"""The fields that conditions can name: for each type of event, where the value comes from.

A field is about the *event* (nothing else is needed to read it), about the *program* (what runs and
is told that it is called, what launched it, what its parent runs: the answer is the same wherever
these are the same, and can be remembered), or about the *process* (whatever is known). A *gate* is
a field of the event that is cheap and few-valued: it is asked before anything is looked up.

Adding a field is one function and one line in a table at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from actors.detection.addresses import is_external, is_mapped, plain
from actors.detection.conditions import EventType, RuleError
from actors.detection.events import ConnectEvent, ExecEvent, FloodEvent, OpenEvent
from actors.detection.obfuscation import find_obfuscation
from actors.detection.observation import Observation
from actors.detection.processes import Process
from actors.detection.programs import Program
from actors.detection.shells import reads_commands

Kind: TypeAlias = Literal["text", "words", "number", "flag", "program", "programs", "file", "port"]
"""How a value is compared: words and programs are several, any of which may fit."""
About: TypeAlias = Literal["event", "program", "process"]

_O_ACCMODE, _O_CREAT, _O_PATH = 3, 0o100, 0o10000000
_READING, _WRITING = (0, 2), (1, 2)
"""O_RDONLY, O_WRONLY and O_RDWR are 0, 1 and 2."""
_FAMILIES = {1: "unix", 2: "ipv4", 10: "ipv6"}
_ARGUMENT = re.compile(r"argv\.(0|[1-9][0-9]{0,2})")
_ARGUMENTS_MAX = 256
_ACCESS = {
    flags: (
        *(("read",) if flags & _O_ACCMODE in _READING else ()),
        *(("write",) if flags & _O_ACCMODE in _WRITING else ()),
        *(("create",) if flags & _O_CREAT else ()),
    )
    for flags in (*range(4), *(_O_CREAT | mode for mode in range(4)))
}


class Field(msgspec.Struct, frozen=True):
    """One field of one type of event."""

    kind: Kind
    get: Callable[[Any], Any]
    """From the event, where it is about the event; else from the observation. None: no value."""
    about: About = "event"
    gate: bool = False
    searched: bool = False
    """Its value is a part of `searched_text`, so a literal of it can be looked for there."""
    last: bool = False
    """Asking has an effect, so it is asked after all others."""


def field(event: EventType, name: str) -> Field | None:
    """Return a field of a type of event, None where that type has none of the name.

    Raises:
        RuleError: No type of event has it.
    """
    found = _FIELDS[event].get(name)
    if found is not None:
        return found
    argument = _ARGUMENT.fullmatch(name)
    if argument is not None and int(argument[1]) < _ARGUMENTS_MAX:
        return _argument(int(argument[1])) if event == "exec" else None
    if name not in NAMES:
        raise RuleError(f"{name}: there is no such field; fields are {', '.join(sorted(NAMES))}")
    return None


def value_of(found: Field, seen: Observation) -> Any:
    """Return a field's value, None where it has none; a program is named by its path."""
    value = found.get(seen.event if found.about == "event" else seen)
    if isinstance(value, Program):
        return value.key
    if isinstance(value, tuple):
        return " ".join(each.key if isinstance(each, Program) else each for each in value)
    return value


def searched_text(event: ExecEvent | OpenEvent | ConnectEvent | FloodEvent) -> str:
    """Return all text of an event, in which keywords and the literals of rules are looked for."""
    if isinstance(event, ExecEvent):
        named = event.exe if event.exe == event.filename else f"{event.exe}\n{event.filename}"
        return f"{named}\n{' '.join(event.argv)}\n{event.cwd}"
    if isinstance(event, OpenEvent):
        return event.filename
    if isinstance(event, FloodEvent):
        return event.probe
    return f"{event.dest_ip}\n{event.dest_port}\n{event.path}"


# Values


def command_line(argv: tuple[str, ...]) -> str:
    """Return arguments as one line, joined by single spaces, not quoted."""
    return " ".join(argv)


def _own_command_line(seen: Observation) -> str | None:
    return seen.process.command_line or None


def _parent_exe(seen: Observation) -> str | None:
    return None if seen.parent_program is None else seen.parent_program.exe or None


def _parent_comm(seen: Observation) -> str | None:
    return None if seen.parent_program is None else seen.parent_program.comm or None


def _parent_command_line(seen: Observation) -> str | None:
    parent = seen.parent
    return None if parent is None else parent.command_line or None


def _parent_user(seen: Observation) -> str | None:
    parent = seen.parent
    return None if parent is None else _user(parent.uid)


def _user(uid: int) -> str | None:
    """Return a user's name as far as the number alone tells it."""
    return None if uid < 0 else "root" if uid == 0 else str(uid)


def _argument(number: int) -> Field:
    if number == 0:
        return Field("text", _argv0, about="program", searched=True)

    def get(event: ExecEvent) -> str | None:
        return event.argv[number] if number < len(event.argv) else None

    return Field("text", get, searched=True)


def _argv0(seen: Observation) -> str | None:
    event = seen.event
    return event.argv[0] if isinstance(event, ExecEvent) and event.argv else None


def access(flags: int) -> tuple[str, ...]:
    """Return the words for the flags of an open: read, write, create; none for ``O_PATH``."""
    return () if flags & _O_PATH else _ACCESS[flags & (_O_ACCMODE | _O_CREAT)]


def _is_to_write(flags: int) -> bool:
    return not {"write", "create"}.isdisjoint(access(flags))


def _descriptor(event: ExecEvent, number: int) -> str | None:
    return event.stdio[number] or None if event.stdio else None


def _on_network(event: ExecEvent) -> bool:
    """Whether a standard descriptor is a socket of another family than unix."""
    return any(each.startswith("socket:") for each in event.stdio)


def _reads_commands(event: ExecEvent) -> bool:
    return reads_commands(event.argv)


def _contact(name: str) -> Callable[[Observation], str | None]:
    def get(seen: Observation) -> str | None:
        return None if seen.contact is None else getattr(seen.contact, name) or None

    return get


def _family(event: ConnectEvent) -> str | None:
    return "ipv4" if is_mapped(event.dest_ip) else _FAMILIES.get(event.af)


def _obfuscated(seen: Observation) -> bool:
    event = seen.event
    if not isinstance(event, ExecEvent):
        return False
    # An interpreter that runs itself with -c (multiprocessing, ensurepip) hides nothing.
    itself = seen.launcher is not None and event.exe != "" and seen.launcher.exe == event.exe
    found = find_obfuscation(seen.program, event.argv, inline_code=not itself)
    seen.note = found or ""
    return found is not None


def _first_call(seen: Observation) -> bool:
    """The same answer for every rule that asks about one event."""
    if seen.first_call is None:
        seen.first_call = seen.host.callers.is_first(seen.program.digest)
    return seen.first_call


def _launcher(seen: Observation) -> Program | None:
    return seen.launcher


def _launcher_exe(seen: Observation) -> str | None:
    return None if seen.launcher is None else seen.launcher.exe or None


def _initiator(seen: Observation) -> Program | None:
    return seen.initiator


def _lineage(seen: Observation) -> tuple[Program, ...]:
    ancestors = seen.host.table.ancestors(seen.process)
    return (seen.program, *(each.program for each in ancestors))


def _ancestry(seen: Observation) -> str:
    process: Process = seen.process
    return seen.host.table.ancestry(process.identity)


_COMMON: dict[str, Field] = {
    "exe": Field("text", lambda seen: seen.program.exe or None, about="program"),
    "filename": Field("text", lambda seen: seen.program.filename or None, about="program"),
    "program": Field("program", lambda seen: seen.program, about="program"),
    "comm": Field("text", lambda event: event.comm or None),
    "uid": Field("number", lambda event: event.uid),
    "pid": Field("number", lambda event: event.pid),
    "error": Field("number", lambda event: event.error, gate=True),
    "host": Field("text", lambda seen: seen.host.hostname or None, about="process"),
    "lineage": Field("programs", _lineage, about="process"),
    "ancestry": Field("text", _ancestry, about="process"),
    "parent.exe": Field("text", _parent_exe, about="program"),
    "parent.comm": Field("text", _parent_comm, about="program"),
    "parent.command_line": Field("text", _parent_command_line, about="process"),
    "parent.user": Field("text", _parent_user, about="process"),
    "text": Field("text", searched_text, searched=True),
}

_EXEC: dict[str, Field] = {
    **_COMMON,
    "command_line": Field("text", lambda event: command_line(event.argv) or None, searched=True),
    "comm": Field("text", lambda seen: seen.program.comm or None, about="program"),
    "argv": Field("words", lambda event: event.argv, searched=True),
    "argc": Field("number", lambda event: len(event.argv)),
    "cwd": Field("text", lambda event: event.cwd or None, searched=True),
    "user": Field("text", lambda event: event.user or None),
    "login_uid": Field("number", lambda event: event.login_uid),
    "system_exe": Field("flag", lambda event: event.system_exe, gate=True),
    "launcher": Field("program", _launcher, about="program"),
    "launcher.exe": Field("text", _launcher_exe, about="program"),
    "initiator": Field("program", _initiator, about="program"),
    "launcher.system_exe": Field(
        "flag",
        lambda seen: None if seen.launcher is None else seen.launcher.system_exe,
        about="program",
    ),
    "launcher.script": Field("text", _contact("script"), about="process"),
    "peer": Field("text", _contact("peer"), about="process"),
    "listens": Field("text", _contact("listens"), about="process"),
    "reads_commands": Field("flag", _reads_commands),
    "on_network": Field("flag", _on_network, gate=True),
    "stdin": Field("text", lambda event: _descriptor(event, 0)),
    "stdout": Field("text", lambda event: _descriptor(event, 1)),
    "stderr": Field("text", lambda event: _descriptor(event, 2)),
    "obfuscated": Field("flag", _obfuscated, about="process", last=True),
}

_OPEN: dict[str, Field] = {
    **_COMMON,
    "command_line": Field("text", _own_command_line, about="process"),
    "user": Field("text", lambda event: _user(event.uid)),
    "path": Field("file", lambda event: event.filename or None, searched=True),
    "path.name": Field("text", lambda event: event.filename.rpartition("/")[2], searched=True),
    "access": Field("words", lambda event: access(event.flags), gate=True),
    "written": Field("flag", lambda event: _is_to_write(event.flags), gate=True),
    "flags": Field("number", lambda event: event.flags, gate=True),
    "resolved": Field("flag", lambda event: event.resolved, gate=True),
    "witness": Field("flag", lambda event: event.witness, gate=True),
}

_CONNECT: dict[str, Field] = {
    **_COMMON,
    "command_line": Field("text", _own_command_line, about="process"),
    "user": Field("text", lambda event: event.user or None),
    "dest_ip": Field("text", lambda event: plain(event.dest_ip) or None, searched=True),
    "dest_ip.raw": Field("text", lambda event: event.dest_ip or None, searched=True),
    "dest_port": Field("port", lambda event: event.dest_port, gate=True),
    "family": Field("text", _family, gate=True),
    "claimed": Field("text", lambda event: event.claimed or None),
    "forged": Field("flag", lambda event: event.claimed != "", gate=True),
    "stdin": Field("text", _contact("stdin"), about="process"),
    "stdout": Field("text", _contact("stdout"), about="process"),
    "socket_path": Field("text", lambda event: event.path or None, searched=True),
    "external": Field(
        "flag", lambda event: event.af != 1 and is_external(event.dest_ip), gate=True
    ),
    "first_network_call": Field("flag", _first_call, about="process", last=True),
}

_FLOOD: dict[str, Field] = {
    **{name: each for name, each in _COMMON.items() if name != "error"},
    "command_line": Field("text", _own_command_line, about="process"),
    "user": Field("text", lambda event: event.user or None),
    "probe": Field("text", lambda event: event.probe or None, searched=True),
    "failed": Field("flag", lambda event: event.failed, gate=True),
    "throttled": Field("number", lambda event: event.throttled),
    "lost": Field("number", lambda event: event.lost),
}

_FIELDS: dict[EventType, dict[str, Field]] = {
    "exec": _EXEC,
    "open": _OPEN,
    "connect": _CONNECT,
    "flood": _FLOOD,
}
NAMES = frozenset(name for fields in _FIELDS.values() for name in fields)
"""Every field there is, beside ``argv.0`` to ``argv.255``."""
