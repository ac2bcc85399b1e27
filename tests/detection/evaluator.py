"""What conditions mean, in the slowest and most obvious way; and worlds in which they are asked.

A world is one host: a parent that was there before, and children of it that do one thing each.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import strategies as st

from actors.detection.conditions import (
    AllOf,
    AnyOf,
    Condition,
    EventType,
    Not,
    Op,
    Test,
    Value,
)
from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ForkEvent,
    OpenEvent,
    SeedEvent,
)

Facts = dict[str, Any]
"""What an event shows: texts, numbers, flags, tuples of words; what has no value is left out."""

PARENT = (50, 10_000_000)


# Meaning


def holds(condition: Condition, facts: Facts) -> bool:
    match condition:
        case AllOf():
            return all(holds(each, facts) for each in condition.of)
        case AnyOf():
            return any(holds(each, facts) for each in condition.of)
        case Not():
            return not holds(condition.of, facts)
    value = facts.get(condition.field)
    if condition.op == "exists":
        return (value is not None) is condition.values[0]
    if value is None:
        return False
    values = value if isinstance(value, tuple) else (value,)
    return any(
        _fits(condition, each, wanted, facts) for each in values for wanted in condition.values
    )


def fold(text: str) -> str:
    """Without regard to case; a sigma at the end of a word is a sigma."""
    return "".join("\u03c3" if char in "\u03a3\u03c2" else char.lower() for char in text)


def _fits(test: Test, value: Any, wanted: Any, facts: Facts) -> bool:
    if test.op in _ORDER:
        numeric = isinstance(value, int) or re.fullmatch("[0-9]{1,19}", value)
        return bool(numeric and _ORDER[test.op](int(value), int(wanted)))
    if test.op == "same_as":
        other = facts.get(str(wanted))
        if not (isinstance(value, str) and isinstance(other, str)):
            return other is not None and bool(value == other)
        wanted = other
    if test.op == "cidr":
        return value in ADDRESSES and ip_address(value) in ip_network(str(wanted))
    if test.op == "re":
        return re.search(str(wanted), value) is not None  # its case is its own to say
    if isinstance(value, int):
        value, wanted = str(int(value)), str(int(wanted))
    text, wanted = (value, str(wanted)) if test.cased else (fold(value), fold(str(wanted)))
    return _COMPARE[test.op](text, wanted)


def _glob(glob: str, text: str) -> bool:
    if not glob:
        return not text
    if glob[0] == "*":
        return any(_glob(glob[1:], text[at:]) for at in range(len(text) + 1))
    if glob[0] == "?":
        return bool(text) and _glob(glob[1:], text[1:])
    if glob[0] == "\\" and len(glob) > 1:
        glob = glob[1:]
    return text[:1] == glob[0] and _glob(glob[1:], text[1:])


_ORDER: dict[str, Callable[[int, int], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "equals": operator.eq,
    "same_as": operator.eq,
    "contains": lambda text, wanted: wanted in text,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "glob": lambda text, wanted: _glob(wanted, text),
}


# Worlds

PIECES = (
    *("abc", "ABC", "def", "x", "/", "/usr/bin/", "ab", " ", "\n", "*", "?", "\\", "7", "443"),
    *(
        "abcdef",
        "İzm",
        "\u017fudo",
        "sudo",
        "\u212aelvin",
        "kelvin",
        "\u039f\u0394\u039f\u03a3",
        "\u03bf\u03b4\u03bf\u03c2",
        "\u03bf\u03b4\u03bf\u03c3",
        "\u03a3",
        "ß",
    ),
)
texts = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
PATHS = (
    "/usr/bin/abc",
    "/usr/bin/\u039f\u0394\u039f\u03a3",
    "/tmp/ABC",
    "/x/\u212aelvin",
    "/usr/bin/sudo",
    "abc def",
)
paths = st.sampled_from(PATHS) | texts.map(lambda text: f"/{text}")
ADDRESSES = ("203.0.113.7", "127.0.0.1", "2001:db8::1", "10.1.2.3")

KINDS: dict[str, dict[str, str]] = {
    "exec": {
        **dict.fromkeys(
            (
                *("exe", "filename", "comm", "parent.exe", "parent.comm", "parent.command_line"),
                *("parent.user", "text", "command_line", "cwd", "user", "launcher.exe"),
                *("argv", "argv.0", "argv.1", "program", "launcher"),
            ),
            "text",
        ),
        **dict.fromkeys(("uid", "argc", "login_uid"), "number"),
        "system_exe": "flag",
        "path": "text",
        "dest_ip": "text",
    },
    "open": {
        **dict.fromkeys(
            (
                *("exe", "program", "comm", "parent.exe", "parent.command_line", "text"),
                *("command_line", "user", "path", "path.name", "access"),
            ),
            "text",
        ),
        **dict.fromkeys(("uid", "error", "flags"), "number"),
        "resolved": "flag",
        "argv": "text",
    },
    "connect": {
        **dict.fromkeys(
            (
                *("exe", "program", "parent.exe", "text", "command_line", "user", "dest_ip"),
                *("socket_path", "family"),
            ),
            "text",
        ),
        **dict.fromkeys(("uid", "error", "dest_port"), "number"),
        "external": "flag",
        "cwd": "text",
    },
}
_NUMBER_OPS: tuple[Op, ...] = ("equals", "lt", "lte", "gt", "gte")
_TEXT_OPS: tuple[Op, ...] = (
    "equals",
    "contains",
    "startswith",
    "endswith",
    "glob",
    "same_as",
    "re",
    "cidr",
    "gt",
)
_EXPRESSIONS = ("abc", "^/usr", "o$", "[a-c]+d", r"\d\d", "x|7")
_NOT_SAME = {"argv", "program", "launcher", "access"}


@st.composite
def tests(draw: st.DrawFn, event: EventType) -> Test:
    name = draw(st.sampled_from(sorted(KINDS[event])))
    kind = KINDS[event][name]
    if draw(st.integers(0, 9)) == 0:
        return Test(name, "exists", (draw(st.booleans()),))
    if kind == "flag":
        return Test(name, "equals", (draw(st.booleans()),))
    if kind == "number":
        op = draw(st.sampled_from(_NUMBER_OPS))
        return Test(
            name,
            op,
            tuple(
                draw(st.lists(st.sampled_from((0, 2, 3, 443, "443", 1000)), min_size=1, max_size=2))
            ),
        )
    op = draw(st.sampled_from(_TEXT_OPS))
    cased = draw(st.booleans())
    if op == "same_as":
        others = sorted(
            each for each, what in KINDS[event].items() if what == "text" and each not in _NOT_SAME
        )
        if name in _NOT_SAME:
            op = "contains"
        else:
            return Test(name, op, (draw(st.sampled_from(others)),), cased)
    what: st.SearchStrategy[Value] = texts | paths
    match op:
        case "re":
            what = st.sampled_from(_EXPRESSIONS)
        case "cidr":
            what = st.sampled_from(("203.0.113.0/24", "2001:db8::/32", "10.0.0.0/8"))
        case "gt":
            what = st.integers(0, 9)
    values = draw(st.lists(what, min_size=1, max_size=3))
    return Test(name, op, tuple(values), cased)


def conditions(event: EventType) -> st.SearchStrategy[Condition]:
    return st.recursive(
        tests(event),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda of: AllOf(tuple(of))),
            st.lists(inner, min_size=1, max_size=3).map(lambda of: AnyOf(tuple(of))),
            inner.map(Not),
        ),
        max_leaves=8,
    )


def named(path: str) -> str:
    return path.rpartition("/")[2]


class World:
    """A host with a parent; each child does one thing."""

    def __init__(self, exe: str, argv: tuple[str, ...]) -> None:
        self.seed = SeedEvent(
            time_ns=20_000_000,
            pid=PARENT[0],
            start_ns=PARENT[1],
            ppid=0,
            parent_start_ns=0,
            uid=0,
            comm="par",
            exe=exe,
            system_exe=True,
            argv=argv,
        )

    def child(self, number: int) -> tuple[dict[str, Any], ForkEvent]:
        start_ns = (number + 1) * 1_000_000_000
        stamp: dict[str, Any] = {
            "time_ns": start_ns + 1_000_000,
            "pid": 100 + number,
            "start_ns": start_ns,
        }
        fork = ForkEvent(**stamp, ppid=PARENT[0], parent_start_ns=PARENT[1], uid=0, comm="par")
        return stamp, fork

    def parent_facts(self) -> Facts:
        return {
            "parent.exe": self.seed.exe,
            "parent.comm": self.seed.comm,
            "parent.command_line": " ".join(self.seed.argv),
            "parent.user": "root",
        }


def facts_of(world: World, started: ExecEvent, event: AnyEvent) -> Facts:
    """What an event shows whose process has started that program."""
    names = (named(started.exe), named(started.filename), started.comm)
    facts: Facts = {
        **world.parent_facts(),
        "exe": started.exe,
        "filename": started.filename,
        "program": names,
        "command_line": " ".join(started.argv),
        "uid": event.uid,  # type: ignore[union-attr]
        "comm": event.comm,  # type: ignore[union-attr]
        "error": 0,
    }
    match event:
        case ExecEvent():
            facts |= {
                "text": "\n".join(
                    [*dict.fromkeys((event.exe, event.filename)), " ".join(event.argv), event.cwd]
                ),
                "argv": event.argv,
                "argc": len(event.argv),
                "cwd": event.cwd,
                "user": event.user,
                "login_uid": event.login_uid,
                "system_exe": event.system_exe,
                "launcher": (named(world.seed.exe), named(world.seed.exe), world.seed.comm),
                "launcher.exe": world.seed.exe,
                **{f"argv.{at}": word for at, word in enumerate(event.argv)},
            }
        case OpenEvent():
            facts |= {
                "text": event.filename,
                "path": event.filename,
                "path.name": named(event.filename),
                "access": {0: ("read",), 1: ("write",), 2: ("read", "write")}[event.flags],
                "flags": event.flags,
                "resolved": event.resolved,
                "user": "root" if event.uid == 0 else str(event.uid),
            }
        case ConnectEvent():
            facts |= {
                "text": f"{event.dest_ip}\n{event.dest_port}\n{event.path}",
                "dest_ip": event.dest_ip,
                "dest_port": event.dest_port,
                "socket_path": event.path,
                "family": {1: "unix", 2: "ipv4", 10: "ipv6"}[event.af],
                "external": event.dest_ip not in {"", "127.0.0.1"},
                "user": event.user,
            }
    # An empty text is no value; only the last part of a path, and all text together, may be empty.
    return {
        name: value
        for name, value in facts.items()
        if value != "" or name in {"path.name", "text"} or name.startswith("argv.")
    }


@st.composite
def worlds(draw: st.DrawFn, event: EventType) -> tuple[World, list[tuple[list[AnyEvent], Facts]]]:
    """A world, and what each of its children does, with what that shows."""
    world = World(draw(paths), tuple(draw(st.lists(texts, max_size=2))))
    done = []
    for number in range(draw(st.integers(1, 4))):
        stamp, fork = world.child(number)
        exe = draw(paths)
        uid = draw(st.sampled_from((0, 1000)))
        started = ExecEvent(
            **stamp,
            ppid=PARENT[0],
            parent_start_ns=PARENT[1],
            uid=uid,
            login_uid=draw(st.sampled_from((0, 1000))),
            cgroup_id=1,
            comm=draw(st.sampled_from(("abc", "", "ABC", "\u017fudo"))),
            filename=draw(st.just(exe) | paths),
            exe=exe,
            system_exe=draw(st.booleans()),
            argv=tuple(draw(st.lists(texts, max_size=3))),
            argv_cut=False,
            cwd=draw(paths),
            user=draw(st.sampled_from(("root", "abc", ""))),
            error=0,
        )
        what: AnyEvent = started
        common = {**stamp, "uid": uid, "comm": started.comm, "error": 0}
        if event == "open":
            what = OpenEvent(
                **common,
                filename=draw(paths | st.just("")),
                resolved=draw(st.booleans()),
                flags=draw(st.integers(0, 2)),
            )
        elif event == "connect":
            address = draw(st.sampled_from(("", *ADDRESSES)))
            what = ConnectEvent(
                **common,
                user=started.user,
                af=10 if ":" in address else 2 if address else 1,
                dest_ip=address,
                dest_port=draw(st.sampled_from((0, 443, 1000))),
                path="" if address else draw(paths),
            )
        events: list[AnyEvent] = [fork, started] if what is not started else [fork]
        done.append(([*events, what], facts_of(world, started, what)))
    return world, done
