"""What is wrong with a rule that can be read: it matches everything, or can never match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actors.detection.compiler import Compiler
from actors.detection.conditions import EventType, RuleError
from actors.detection.engine import Engine
from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    FloodEvent,
    OpenEvent,
    SeedEvent,
)
from actors.detection.observation import TYPE_OF
from actors.detection.rules import AnyRule, Sequence
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings

_COMMON: dict[str, Any] = {
    "time_ns": 1_000_000_000,
    "pid": 4321,
    "start_ns": 900_000_000,
    "comm": "qx7",
}
_ORDINARY: tuple[AnyEvent, ...] = (
    *(
        ExecEvent(
            **_COMMON,
            ppid=4320,
            parent_start_ns=800_000_000,
            uid=1007,
            login_uid=1007,
            cgroup_id=77,
            filename=f"/nowhere/{name}",
            exe=f"/nowhere/{name}",
            system_exe=system,
            argv=(f"/nowhere/{name}", *arguments),
            argv_cut=False,
            cwd=f"/nowhere/{name}.d",
            user=name,
            error=0,
        )
        for name, system, arguments in (
            ("qx7vbz", False, ("zzqy",)),
            ("wkjpty", True, ()),
        )
    ),
    *(
        OpenEvent(**_COMMON, uid=1007, filename=path, resolved=True, flags=flags, error=0)
        for path, flags in (("/nowhere/qx7vbz", 0), ("/nowhere/wkjpty", 0o101))
    ),
    *(
        ConnectEvent(
            **_COMMON,
            uid=1007,
            user="qx7vbz",
            af=2,
            dest_ip=address,
            dest_port=port,
            path="",
            error=0,
        )
        for address, port in (("198.51.100.23", 40_001), ("127.0.0.1", 40_003))
    ),
    *(
        FloodEvent(
            **_COMMON,
            uid=1007,
            user="qx7vbz",
            probe=probe,
            failed=failed,
            throttled=0,
            lost=lost,
            span_ns=1_000_000_000,
        )
        for probe, failed, lost in (("exec", True, 1), ("open", False, 2))
    ),
)
"""Events that no rule about anything in particular is about."""
_BEFORE: tuple[AnyEvent, ...] = tuple(
    SeedEvent(
        time_ns=1,
        pid=pid,
        start_ns=start_ns,
        ppid=ppid,
        parent_start_ns=max(start_ns - 100_000_000, 0),
        uid=1007,
        comm="qx7",
        exe="/nowhere/qx7vbz",
        system_exe=False,
        argv=("/nowhere/qx7vbz",),
    )
    for pid, start_ns, ppid in ((4320, 800_000_000, 4319), (4321, 900_000_000, 4320))
)
"""Who did them, and who started that."""


def check_rule(rule: AnyRule, settings: FilterSettings) -> None:
    """Refuse a rule that cannot be compiled, can never match, or matches everything.

    Raises:
        RuleError: Names the rule's id and says why.
    """
    compiled = RuleSet(settings, [rule])
    if isinstance(rule, Sequence):
        compiler = Compiler(settings)
        for number, step in enumerate(rule.steps, 1):
            if not any(compiler.compile(each.when, each.event) for each in step.matches):
                raise RuleError(
                    f"{rule.id}: step {number} can never match: its events lack a field"
                )
    else:
        if not any(True for _ in _possible(compiled)):
            lacking = " and ".join(each.event for each in rule.matches)
            raise RuleError(f"{rule.id}: can never match: {lacking} events have not all its fields")
        for event, kind in TYPE_OF.items():
            ordinary = [each for each in _ORDINARY if type(each) is event]
            mine = any(match.event == kind for match in rule.matches)
            if mine and all(_matches(compiled, each) for each in ordinary):
                raise RuleError(f"{rule.id}: matches every {kind} event; ask for something")


def _possible(compiled: RuleSet) -> Iterator[EventType]:
    return (event for event, plans in compiled.plans.items() if len(plans))


def _matches(compiled: RuleSet, event: AnyEvent) -> bool:
    engine = Engine(compiled)
    engine.process_batch(_BEFORE)
    return bool(engine.process(event))
