"""What the program can say of itself, out of its source: metrics and log lines; its fault tests."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_args

import trio

from actors.detection.engine import EngineStatistics
from actors.detection.processes import TableStatistics
from actors.rulebook import Row
from actors.runtime.statistics import ActorStatistics
from bpf.records import COUNTERS, PROBES
from services import metrics, program
from services.parts import PARTS, Resources
from services.settings import Settings
from tests.documents.extract import ROOT
from transport.session import Session, SessionStatistics

PRODUCT = ("actors", "bpf", "services", "transport")
_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
_LOGGERS = {"log", "_log", "get_logger", "report"}


def _sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def log_messages() -> dict[str, set[str]]:
    """Every constant message that is logged, with the files that do; none may be put together."""
    found: dict[str, set[str]] = {}
    for file, tree in _sources(*PRODUCT):
        for call in _calls(tree):
            if not _logs(call.func) or not call.args:
                continue
            message = call.args[0]
            assert isinstance(message, ast.Constant), f"{file}:{call.lineno}: not a constant"
            found.setdefault(str(message.value), set()).add(file)
    return found


def _logs(function: ast.expr) -> bool:
    """Whether it is a method of a logger, or one that was chosen of them: ``report``."""
    if isinstance(function, ast.Name):
        return function.id == "report"
    if not isinstance(function, ast.Attribute) or function.attr not in _LEVELS:
        return False
    owner = function.value
    if isinstance(owner, ast.Call):
        owner = owner.func
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return name in _LOGGERS


def reading_names() -> set[str]:
    """What is given to `Metrics.add` anywhere, as far as it is constant."""
    found = set()
    for _, tree in _sources("services"):
        for call in _calls(tree):
            function = call.func
            if not isinstance(function, ast.Attribute) or function.attr != "add":
                continue
            owner = function.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in ("metrics", "_metrics") and len(call.args) == 2:
                found.add(ast.unparse(call.args[0]).strip("f'\""))
    return found


def metric_names() -> set[str]:
    """Every metric of a process that runs all services."""
    shown = metrics.Metrics()
    resources = Resources(
        settings=Settings(),
        session=Session(Settings().broker, name="stack"),
        gate=cast("Any", object()),
        metrics=shown,
        listen="",
        streams_ready=trio.Event(),
    )
    program.build_topology("stack", PARTS, resources)
    shown.add("broker", lambda: dict.fromkeys((*_names(SessionStatistics), "connected"), 0))
    statuses = get_args(Row.__annotations__["status"]) or ("active", "disabled", "unsupported")
    shown.add("detection_rules", lambda: dict.fromkeys(("changes_refused", *statuses), 0))
    shown.add("actor", lambda: dict.fromkeys(actor_keys(), 0))
    return {metric.name for metric in shown.collect()}


def actor_keys() -> tuple[str, ...]:
    """What `MetricsServer` shows of actors."""
    tree = ast.parse((ROOT / "services" / "metrics.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "keys":
            return tuple(ast.literal_eval(node.value))
    raise AssertionError("services/metrics.py has no keys")


def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


def status_keys() -> set[str]:
    """What the agent's status record has below ``probes``, ``detection`` and ``actors``."""
    assert PROBES
    engine = (name for name in EngineStatistics.__struct_fields__ if name != "table")
    return {
        *(f"probes.{name}" for name in COUNTERS),
        *(f"detection.{name}" for name in engine),
        *(f"detection.table.{name}" for name in TableStatistics.__struct_fields__),
        *(f"actors.{name}" for name in _names(ActorStatistics)),
    }


def tests_of(path: Path) -> list[str]:
    """The tests of a file, as ``file::test``."""
    names = re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    return [f"{path.relative_to(ROOT)}::{name}" for name in names]


def main() -> int:
    """Whether all metrics of an exposition, on standard input, are known; prints the others."""
    served = set(re.findall(r"^# TYPE (lavender_\w+)", sys.stdin.read(), re.MULTILINE))
    unknown = sorted(served - metric_names())
    sys.stdout.write("\n".join(unknown))
    return 0 if served and not unknown else 1


if __name__ == "__main__":
    sys.exit(main())
