"""``--check``: what this machine has of what the agent needs, without attaching anything."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from actors.agent import landlock, privileges
from actors.agent.endpoint import build_topology
from actors.agent.settings import Settings
from actors.config import Source
from actors.detection.rulefile import RuleFileError
from actors.rulefiles import RuleFiles
from bpf import fanotify, pins
from bpf.attach import find_bcc_python
from bpf.btf import Btf
from bpf.errors import BpfError
from bpf.source import ATTACHMENTS, FIELDS

_FILESYSTEMS = Path("/proc/filesystems")
_TRACEFS = Path("/sys/kernel/tracing/events")
_LANDLOCK_WITH_PORTS = 4


def check(settings: Settings, source: Source, rules: RuleFiles) -> tuple[str, bool]:
    """A table for people, and whether the agent can start here."""
    rows = [_row(name, test) for name, test in _tests(settings, source, rules)]
    width = max(len(name) for name, _, _ in rows)
    lines = [
        f"{'ok  ' if good else 'FAIL'}  {name.ljust(width)}  {detail}"
        for name, good, detail in rows
    ]
    return "\n".join(lines) + "\n", all(good for _, good, _ in rows)


def _tests(
    settings: Settings, source: Source, rules: RuleFiles
) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "configuration", lambda: str(source)
    yield "topology", lambda: f"{len(build_topology(settings).children)} actors"
    yield "rules", lambda: _rules(rules)
    yield "root", _root
    yield "machine", _machine
    yield "bcc", find_bcc_python
    yield "kernel types", lambda: f"{len(Btf.of_kernel().offsets(FIELDS))} fields from BTF"
    yield "tracepoints", _tracepoints
    yield "bpffs", _bpffs
    yield "marks", _marks
    yield "confinement", _confinement


def _row(name: str, test: Callable[[], str]) -> tuple[str, bool, str]:
    try:
        return name, True, test()
    except (BpfError, _MissingError) as error:
        return name, False, str(error)


class _MissingError(Exception):
    """A need is not met; the text says which and what to do."""


def _rules(rules: RuleFiles) -> str:
    try:
        book = rules.book
    except RuleFileError as error:
        raise _MissingError(str(error)) from error
    if book.unusable:
        raise _MissingError("; ".join(map(str, book.unusable)))
    active = sum(row.status == "active" for row in book.rows)
    found = f"{active} active, {len(book.rows) - active} disabled"
    unreadable = privileges.as_unprivileged(_unreadable(rules)) if os.geteuid() == 0 else []
    if unreadable:
        user = privileges.unprivileged_user().pw_name
        found += f"; user {user} cannot read changes of {', '.join(unreadable)}"
    return found


def _unreadable(rules: RuleFiles) -> Callable[[], list[str]]:
    def find() -> list[str]:
        try:
            return rules.unreadable()
        except RuleFileError as error:
            return [str(error)]

    return find


def _confinement() -> str:
    """Not a need: an attacker in the agent's process may do the less, the more of it there is."""
    found = landlock.version()
    ports = "files and ports" if found >= _LANDLOCK_WITH_PORTS else "files"
    filters = "seccomp" if Path("/proc/sys/kernel/seccomp").is_dir() else "no seccomp"
    return f"{filters}, " + (f"Landlock {found} for {ports}" if found else "no Landlock")


def _root() -> str:
    if os.geteuid() != 0:
        raise _MissingError("the agent must start as root: use sudo")
    return "yes"


def _machine() -> str:
    if platform.machine() != "x86_64":
        raise _MissingError(f"the probes are for x86_64; this machine is {platform.machine()}")
    return f"{platform.machine()}, kernel {platform.release()}"


def _tracepoints() -> str:
    try:
        if not _TRACEFS.is_dir():
            return "tracefs is not mounted; the loader will mount it for itself"
        missing = [name for name in ATTACHMENTS if not (_TRACEFS / name).is_dir()]
    except PermissionError as error:
        raise _MissingError(f"only root may look into {_TRACEFS}: use sudo") from error
    if missing:
        raise _MissingError(f"this kernel has no {', '.join(missing)}")
    return f"{len(ATTACHMENTS)} found"


def _bpffs() -> str:
    """Not a need: without it the agent runs, and a crash of it loses what the rings hold."""
    try:
        os.close(pins.open_bpffs(mount=False))
    except PermissionError:
        return f"only root may look into {pins.BPFFS}"
    except OSError as error:
        if _FILESYSTEMS.read_text().find("\tbpf\n") < 0 or not pins.BPFFS.is_dir():
            return "this kernel has none: a crash of the agent will lose what the rings hold"
        return f"{error.strerror}; the agent will try to"
    return f"mounted on {pins.BPFFS}"


def _marks() -> str:
    """No need either: without them the open probe alone sees sensitive files."""
    try:
        fanotify.Group().close()
    except OSError as error:
        return f"none: {error.strerror}; some ways to open sensitive files will not be seen"
    return "fanotify"
