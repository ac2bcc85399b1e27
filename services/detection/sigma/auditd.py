"""auditd's records, built from events: EXECVE, PATH, and SYSCALL for three system calls.

A rule sees one record at a time, so it is about records of one type. Who did it (``exe``, ``uid``)
stands in the SYSCALL record only; whatever joins the records of an audit event gives it to the
others, and so do we.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from actors.detection.conditions import EventType, Not, Test
from services.detection.sigma.fields import Absent, Choice, Field, Lookup, Unserved, View

_RECORDS = ("EXECVE", "PATH", "SYSCALL")
_ARGUMENT = re.compile(r"a(0|[1-9][0-9]{0,3})")
_ARGUMENTS_MAX = 256
_SUCCESS = Test("error", "equals", (0,))
_CREATED = Test("access", "equals", ("create",))
_CONNECTED = Test("error", "equals", (0, 115))  # 115: EINPROGRESS, which is no failure

_SYSCALLS: dict[EventType, tuple[str, ...]] = {
    "exec": ("execve",),
    "open": ("openat", "open", "openat2", "creat"),
    "connect": ("connect",),
}
_SYSCALL_NAMES = frozenset(name for names in _SYSCALLS.values() for name in names)

_LACKING = {
    "key": "Lavender's events carry no keys of audit rules",
    "euid": "Lavender's events carry the real user id only",
    "suid": "Lavender's events carry the real user id only",
    "fsuid": "Lavender's events carry the real user id only",
    "unit": "Lavender does not see systemd's units",
}


def _who(event: EventType) -> dict[str, Lookup]:
    """Fields of whoever did it."""
    exec_only: dict[str, Lookup] = {
        "auid": Field("login_uid", "number", present=True),
        "cwd": Field("cwd"),
    }
    return {
        "exe": Field("exe", present=event == "exec"),
        "comm": Field("comm", present=True),
        "uid": Field("uid", "number", present=True),
        "pid": Field("pid", "number", present=True, most=(1 << 31) - 1),
        **(exec_only if event == "exec" else {}),
    }


def _type(record: str) -> Choice:
    return Choice(
        {record: True},
        elsewhere=frozenset(_RECORDS),
        other="record type {}: Lavender has EXECVE, PATH and SYSCALL records only",
    )


def _missing(record: str) -> Callable[[str], Lookup]:
    """What any other field of a record is."""

    def lookup(name: str) -> Lookup:
        if match := _ARGUMENT.fullmatch(name):
            if record == "EXECVE" and int(match[1]) < _ARGUMENTS_MAX:
                return Field(f"argv.{match[1]}")
            if record == "SYSCALL":
                return Unserved(
                    f"field {name}: Lavender's events do not carry arguments of system calls"
                )
            return Absent(f"field {name}: {record} records do not have it")
        if name in {"argc", "name", "nametype", "SYSCALL", "syscall", "success"}:
            return Absent(f"field {name}: {record} records do not have it")
        why = _LACKING.get(name, "Lavender's events have no such field")
        return Unserved(f"field {name}: {why}")

    return lookup


def _syscall(event: EventType) -> View:
    names = Choice(
        dict.fromkeys(_SYSCALLS[event], True),
        elsewhere=_SYSCALL_NAMES,
        other="system call {}: Lavender sees execve, openat and connect only",
    )
    done = _CONNECTED if event == "connect" else _SUCCESS
    success = (
        Choice({"yes": True}, other="field success: failed execs are not told, {} is asked")
        if event == "exec"
        else Choice({"yes": done, "no": Not(done)}, other="field success is yes or no, not {}")
    )
    fields: dict[str, Lookup] = {
        "type": _type("SYSCALL"),
        "SYSCALL": names,
        "syscall": names,
        "success": success,
    }
    base = (_SUCCESS,) if event == "exec" else ()
    no_text = Absent("keywords: SYSCALL records hold no text of their own")
    return View(event, base, _who(event) | fields, _missing("SYSCALL"), no_text)


_EXECVE = View(
    "exec",
    (_SUCCESS,),
    {
        **_who("exec"),
        "type": _type("EXECVE"),
        "argc": Field("argc", "number", present=True, most=_ARGUMENTS_MAX),
    },
    _missing("EXECVE"),
)
_PATH_OPENED = View(
    "open",
    (_SUCCESS,),
    {
        **_who("open"),
        "type": _type("PATH"),
        "name": Field("path", present=True),
        "nametype": Choice(
            {"CREATE": _CREATED, "NORMAL": Not(_CREATED)},
            other="nametype {}: Lavender has CREATE and NORMAL only",
        ),
    },
    _missing("PATH"),
)
_PATH_RUN = View(
    "exec",
    (_SUCCESS,),
    {
        **_who("exec"),
        "type": _type("PATH"),
        "name": Field("exe", present=True),
        "nametype": Choice(
            {"NORMAL": True},
            elsewhere=frozenset({"CREATE"}),
            other="nametype {}: Lavender has CREATE and NORMAL only",
        ),
    },
    _missing("PATH"),
)

VIEWS = (_EXECVE, _PATH_RUN, _PATH_OPENED, *(_syscall(event) for event in _SYSCALLS))
