"""What conditions mean, in the simplest way: events as names and values, no engine.

And how tests here write a rule: the part of it that a test is about.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from textwrap import indent

import re2

from actors.detection.conditions import AllOf, AnyOf, Condition, Not, Test, Value
from actors.detection.rules import Rule
from services.detection.sigma.loading import load
from services.detection.sigma.refusals import Refusal

Event = dict[str, Value | tuple[Value, ...]]

PROCESS = "category: process_creation"
FILE = "category: file_event"
CONNECTION = "category: network_connection"
AUDITD = "service: auditd"
_WHO: Event = {"exe": "/bin/x", "comm": "x", "uid": 0, "pid": 7, "error": 0, "user": "root"}
STARTED: Event = {**_WHO, "login_uid": 0, "cwd": "/root", "argc": 1, "command_line": "x"}
WRITTEN: Event = {**_WHO, "path": "/tmp/x", "access": ("write", "create")}
CONNECTED: Event = {**_WHO, "dest_ip": "10.0.0.1", "dest_port": 80, "family": "ipv4"}


def corpora() -> Path:
    given = os.environ.get("TESTS_CORPORA")
    return Path(given) if given else Path(__file__).resolve().parents[5] / "shared" / "corpora"


def document(detection: str, logsource: str = PROCESS, more: str = "") -> str:
    return (
        f"title: A test\n{more}\nlogsource:\n    product: linux\n    {logsource}\n"
        f"detection:\n{indent(detection.strip(chr(10)), '    ')}\n"
    )


def rule_of(detection: str, logsource: str = PROCESS, more: str = "") -> Rule:
    results = load(document(detection, logsource, more), "test.yml")
    assert [str(each) for each in results.refusals] == []
    (rule,) = results.rules
    assert isinstance(rule, Rule)
    return rule


def refusal_of(detection: str, logsource: str = PROCESS, more: str = "") -> Refusal:
    results = load(document(detection, logsource, more), "test.yml")
    assert results.loaded == ()
    (refusal,) = results.refusals
    return refusal


def item(text: str, logsource: str = PROCESS) -> Rule:
    """A rule of one item: ``CommandLine|contains: x``."""
    return rule_of(f"selection:\n{indent(text, '    ')}\ncondition: selection", logsource)


def refused_item(text: str, logsource: str = PROCESS) -> Refusal:
    return refusal_of(f"selection:\n{indent(text, '    ')}\ncondition: selection", logsource)


def started(command_line: str, **more: Value | tuple[Value, ...]) -> Event:
    words = command_line.split(" ")
    arguments: Event = {f"argv.{at}": word for at, word in enumerate(words)}
    return {**STARTED, "command_line": command_line, "argc": len(words), **arguments, **more}


def fires(rule: Rule, event: Event, kind: str = "exec") -> bool:
    return any(holds(each.when, event) for each in rule.matches if each.event == kind)


def holds(condition: Condition, event: Event) -> bool:
    match condition:
        case AllOf():
            return all(holds(each, event) for each in condition.of)
        case AnyOf():
            return any(holds(each, event) for each in condition.of)
        case Not():
            return not holds(condition.of, event)
        case Test():
            return _test(condition, event)


def _test(test: Test, event: Event) -> bool:
    found = event.get(test.field)
    if test.op == "exists":
        return (found is not None) is test.values[0]
    if found is None:
        return False
    several = found if isinstance(found, tuple) else (found,)
    if test.op == "same_as":
        return found == event.get(str(test.values[0]))
    return any(_fits(test, each, value) for each in several for value in test.values)


def _fits(test: Test, found: Value, value: Value) -> bool:
    if isinstance(found, int) and isinstance(value, int):
        return {
            "equals": found == value,
            "lt": found < value,
            "lte": found <= value,
            "gt": found > value,
            "gte": found >= value,
        }[test.op]
    assert isinstance(found, str), test
    assert isinstance(value, str), test
    if test.op == "re":
        return re2.search(value, found) is not None
    if test.op == "cidr":
        return ip_address(found) in ip_network(value)
    if not test.cased:
        found, value = found.lower(), value.lower()
    return {
        "equals": lambda: found == value,
        "contains": lambda: value in found,
        "startswith": lambda: found.startswith(value),
        "endswith": lambda: found.endswith(value),
        "glob": lambda: _glob(value, found),
    }[test.op]()


def _glob(glob: str, text: str) -> bool:
    parts = re.findall(r"\\.|[*?]|.", glob, re.DOTALL)
    pattern = "".join({"*": ".*", "?": "."}.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(pattern, text, re.DOTALL) is not None
