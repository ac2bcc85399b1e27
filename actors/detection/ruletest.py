"""Rule tests: event snippets become whole events of a make-believe host, and the rule is asked.

A snippet names a ``type`` (exec, open, connect, listen, flood, exit) and whatever matters of its
fields; the rest has a default. ``process`` is a name of the test's own for the process that does
it, ``parent`` that of the process that started it; ``after_secs`` lets time pass first. An exec
under ``/usr``, ``/bin``, ``/sbin``, ``/lib`` or ``/opt`` is the system's own unless ``system_exe``
says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from actors.detection.conditions import RuleError
from actors.detection.engine import Engine
from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    FloodEvent,
    ForkEvent,
    Identity,
    ListenEvent,
    OpenEvent,
    SeedEvent,
)
from actors.detection.rules import AnyRule, RuleTest
from actors.detection.ruleset import RuleSet

_BOOT_NS = 1_000_000_000_000
_EVENT_NS = 1_000_000
_TICK_NS = 10_000_000
_INIT: Identity = (1, 0)
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib", "/opt/")
_FLAGS = {"read": 0, "write": 1, "create": 0o101}
_AFTER_MAX_SECS = 1_000_000


class Outcome(msgspec.Struct, frozen=True):
    """What came of one test."""

    rule_id: str
    test: str
    wanted: bool
    """Whether the rule had to match."""
    matched: bool

    @property
    def passed(self) -> bool:
        """Whether the rule did what it had to."""
        return self.wanted == self.matched


def run_tests(rule: AnyRule, rules: RuleSet) -> list[Outcome]:
    """Run a rule's own tests against a set that has it.

    Raises:
        RuleError: A snippet makes no event.
    """
    return [
        Outcome(rule.id, test.name, test.matches, rule.id in _raised(rule, test, rules))
        for test in rule.tests
    ]


def _raised(rule: AnyRule, test: RuleTest, rules: RuleSet) -> set[str]:
    engine = Engine(rules, hostname="test")
    try:
        alerts = engine.process_batch(events_of(test.events))
    except (RuleError, msgspec.ValidationError) as error:
        raise RuleError(f"{rule.id}: test {test.name!r}: {error}") from error
    return {alert.rule_id for alert in alerts}


def events_of(snippets: Iterable[dict[str, Any]]) -> list[AnyEvent]:
    """Return the events that snippets stand for.

    Raises:
        RuleError: A snippet has a field that its type has not.
        msgspec.ValidationError: A value is not of its field's type.
    """
    host = _Host()
    for snippet in snippets:
        host.take(dict(snippet))
    return host.events


class _Host:
    def __init__(self) -> None:
        self.now_ns = _BOOT_NS
        self.events: list[AnyEvent] = [
            SeedEvent(
                time_ns=_BOOT_NS,
                pid=1,
                start_ns=0,
                ppid=0,
                parent_start_ns=0,
                uid=0,
                comm="systemd",
                exe="/usr/lib/systemd/systemd",
                system_exe=True,
                argv=("/sbin/init",),
            )
        ]
        self._known: dict[str, Identity] = {"init": _INIT}
        self._comms: dict[Identity, str] = {_INIT: "systemd"}
        self._parents: dict[Identity, Identity] = {}

    def take(self, snippet: dict[str, Any]) -> None:
        after_secs = snippet.pop("after_secs", 0)
        if not isinstance(after_secs, int | float) or not 0 <= after_secs <= _AFTER_MAX_SECS:
            raise RuleError(f"after_secs {after_secs!r}: is a number from 0 to {_AFTER_MAX_SECS}")
        self.now_ns += int(after_secs * 1e9)
        kind = str(snippet.pop("type", None))
        make = {
            "exec": self._exec,
            "open": self._open,
            "connect": self._connect,
            "listen": self._listen,
            "flood": self._flood,
            "exit": self._exit,
        }
        if kind not in make:
            raise RuleError(f"type {kind!r}: an event is of type {', '.join(make)}")
        name, parent = snippet.pop("process", "process"), snippet.pop("parent", "init")
        identity = self._process(str(name), str(parent))
        self.now_ns += _EVENT_NS
        stamp = {"time_ns": self.now_ns, "pid": identity[0], "start_ns": identity[1]}
        self.events.append(make[kind](identity, stamp, snippet))

    def _process(self, name: str, parent_name: str) -> Identity:
        if name in self._known:
            return self._known[name]
        parent = self._known.get(parent_name)
        if parent is None:
            raise RuleError(f"process {name!r}: its parent {parent_name!r} has done nothing before")
        start_ns = self.now_ns // _TICK_NS * _TICK_NS
        identity = self._known[name] = (100 + len(self._known), start_ns)
        self._parents[identity] = parent
        comm = self._comms[identity] = self._comms[parent]
        self.now_ns += _EVENT_NS
        self.events.append(
            ForkEvent(self.now_ns, *identity, *parent, uid=0, comm=comm)  # ppid, parent_start_ns
        )
        return identity

    def _exec(self, identity: Identity, stamp: dict[str, Any], given: dict[str, Any]) -> AnyEvent:
        exe = str(given.pop("exe", given.get("filename", "/usr/bin/true")))
        filename = str(given.pop("filename", exe))
        line = given.pop("command_line", None)
        argv = given.pop("argv", str(line).split(" ") if line is not None else [filename])
        ppid, parent_start_ns = self._parents.get(identity, (0, 0))
        values: dict[str, Any] = {
            "ppid": ppid,
            "parent_start_ns": parent_start_ns,
            "uid": 0,
            "login_uid": 4_294_967_295,
            "cgroup_id": 1,
            "comm": filename.rpartition("/")[2][:15],
            "filename": filename,
            "exe": exe,
            "system_exe": exe.startswith(_SYSTEM),
            "argv": argv,
            "argv_cut": False,
            "cwd": "/",
            "user": "root",
            "error": 0,
            "stdio": (),
        }
        event = _made(ExecEvent, stamp, values, given)
        if isinstance(event, ExecEvent) and not event.error:
            self._comms[identity] = event.comm
        return event

    def _open(self, identity: Identity, stamp: dict[str, Any], given: dict[str, Any]) -> AnyEvent:
        access = str(given.pop("access", "read"))
        if access not in _FLAGS:
            raise RuleError(f"access {access!r}: is read, write or create")
        values = {
            "uid": 0,
            "comm": self._comms[identity],
            "filename": given.pop("path", "/tmp/file"),  # noqa: S108 - a name, no file
            "resolved": True,
            "flags": _FLAGS[access],
            "error": 0,
        }
        return _made(OpenEvent, stamp, values, given)

    def _connect(
        self, identity: Identity, stamp: dict[str, Any], given: dict[str, Any]
    ) -> AnyEvent:
        path = given.pop("socket_path", "")
        address = str(given.get("dest_ip", "" if path else "203.0.113.7"))
        values = {
            "uid": 0,
            "user": "root",
            "comm": self._comms[identity],
            "af": 1 if path else 10 if ":" in address else 2,
            "dest_ip": address,
            "dest_port": 0 if path else 443,
            "path": path,
            "error": 0,
            "claimed": "",
            "socket": 0,
        }
        return _made(ConnectEvent, stamp, values, given)

    def _listen(self, identity: Identity, stamp: dict[str, Any], given: dict[str, Any]) -> AnyEvent:
        address = str(given.get("ip", "0.0.0.0"))  # noqa: S104 - nothing is bound here
        values = {
            "uid": 0,
            "user": "root",
            "comm": self._comms[identity],
            "af": 10 if ":" in address else 2,
            "ip": address,
            "port": 8080,
            "socket": 0,
        }
        return _made(ListenEvent, stamp, values, given)

    def _flood(self, identity: Identity, stamp: dict[str, Any], given: dict[str, Any]) -> AnyEvent:
        values = {
            "uid": 0,
            "user": "root",
            "comm": self._comms[identity],
            "probe": "exec",
            "failed": True,
            "throttled": 1,
            "lost": 0,
            "span_ns": 1_000_000_000,
        }
        return _made(FloodEvent, stamp, values, given)

    def _exit(self, _identity: Identity, stamp: dict[str, Any], given: dict[str, Any]) -> AnyEvent:
        return _made(ExitEvent, stamp, {"exit_code": 0, "signal": 0}, given)


def _made(
    kind: type[AnyEvent], stamp: dict[str, Any], values: dict[str, Any], given: dict[str, Any]
) -> AnyEvent:
    unknown = sorted(given.keys() - values.keys())
    if unknown:
        raise RuleError(f"{unknown[0]!r} is no field of such an event; {', '.join(values)} are")
    event: AnyEvent = msgspec.convert(
        {"type": kind.__struct_config__.tag, **stamp, **values, **given}, kind
    )
    return event
