"""Incidents for people and programs: a list of them, or one with its process tree and timeline.

`main` is ``python -m services.detection incidents [ID]``; everything else here is pure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import trio

from actors import stdio
from actors.detection.events import Identity, LineageProcess
from actors.detection.text import printable
from actors.usage import Parser, program_name
from services.program import STORE_ERROR
from services.settings import Settings
from services.store.incidents import Incident, IncidentPage, StoredAlert, Timeline
from services.store.interface import Store, StoreError
from services.store.reading import read
from services.times import argument, iso

NOT_FOUND = 1
_LIMIT_MAX = 1000


def render(timeline: Timeline) -> str:
    """An incident as people read it: what it is, its process tree, its alerts in order of time."""
    incident = timeline.incident
    lines = [
        _headline(incident),
        (
            f"  agent {printable(incident.tenant_id)}/{printable(incident.agent_id)},"
            f" lineage {printable(incident.lineage)} of boot {printable(incident.boot_id)}"
        ),
        "",
        *(f"  {line}" for line in tree(timeline.alerts)),
        "",
        *(f"  {_entry(each)}" for each in timeline.alerts),
    ]
    if incident.alerts > len(timeline.alerts):
        lines.append(f"  and {incident.alerts - len(timeline.alerts)} more alerts")
    return "\n".join(lines) + "\n"


def tree(alerts: Sequence[StoredAlert]) -> list[str]:
    """The processes of these alerts as lines, children below their parents, by start time.

    Whatever the alerts claim: a process is shown once, and one that is its own ancestor as a root.
    """
    processes = {(each.pid, each.start_ns): each for each in _all_processes(alerts)}
    said = _said_of(alerts)
    children: dict[Identity | None, list[Identity]] = {}
    for identity, process in sorted(processes.items(), key=lambda item: item[0][::-1]):
        parent = (process.ppid, process.parent_start_ns)
        known = parent in processes and parent != identity
        children.setdefault(parent if known else None, []).append(identity)
    lines: list[str] = []
    shown: set[Identity] = set()
    for root in (*children.get(None, ()), *processes):  # the rest are cycles
        waiting = [(root, "", "")]
        while waiting:
            identity, before, below = waiting.pop()
            if identity in shown:
                continue
            shown.add(identity)
            name = printable(processes[identity].name, limit=200)
            told = "".join(f"  ! {what}" for what in said.get(identity, ()))
            lines.append(f"{before}{name} ({identity[0]}){told}")
            own = children.get(identity, [])
            waiting += [
                (child, f"{below}{'└─ ' if last else '├─ '}", f"{below}{'   ' if last else '│  '}")
                for child, last in reversed([(each, each is own[-1]) for each in own])
            ]
    return lines


def _all_processes(alerts: Iterable[StoredAlert]) -> Iterable[LineageProcess]:
    """What the later alerts say comes last, and so stands."""
    return (process for each in alerts for process in each.alert.processes)


def _said_of(alerts: Iterable[StoredAlert]) -> Mapping[Identity, list[str]]:
    """Labels of the rules by the process they are about: the last of an alert's lineage."""
    said: dict[Identity, list[str]] = {}
    for each in alerts:
        if each.alert.processes:
            about = each.alert.processes[-1]
            labels = said.setdefault((about.pid, about.start_ns), [])
            label = printable(each.alert.rule, limit=200)
            labels += [] if label in labels else [label]
    return said


def _headline(incident: Incident) -> str:
    times = iso(incident.first_seen_at_unix_ms), iso(incident.last_seen_at_unix_ms)
    return (
        f"{incident.incident_id}  {incident.level}  score {incident.score} {incident.severity}"
        f"  {incident.status}  {printable(incident.hostname)}"
        f"  {incident.alerts} alerts, {incident.hits} hits  {times[0]} to {times[1]}"
    )


def _entry(stored: StoredAlert) -> str:
    alert = stored.alert
    often = f" ({alert.count} times)" if alert.count > 1 else ""
    quiet = " (quiet)" if stored.lane == "quiet" else ""
    author = f" by {printable(alert.author, limit=200)}" if alert.author else ""
    return (
        f"{iso(alert.observed_at_unix_ms)}  {alert.level}{quiet}  {printable(alert.rule)}"
        f"{often}{author}: {printable(alert.event_comm)} ({alert.event_pid})"
        f" {printable(alert.detail)}"
    )


def page_text(page: IncidentPage) -> str:
    """A line for each incident, the one seen last first."""
    if not page.incidents:
        return "no incidents\n"
    lines = [_headline(each) for each in page.incidents]
    lines += [f"more: --cursor {page.cursor}"] if page.cursor else []
    return "\n".join(lines) + "\n"


def to_json(found: IncidentPage | Timeline) -> str:
    """The same for programs: one object."""
    record: dict[str, Any] = msgspec.to_builtins(found)
    if isinstance(found, Timeline):
        record["tree"] = tree(found.alerts)
    return json.dumps(record) + "\n"


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog=program_name("services.detection incidents", command="lavender incidents"),
        description="Alerts of one lineage, gathered: a list, or one with its timeline.",
    )
    parser.add_argument("id", nargs="?", help="this incident")
    parser.add_argument("--since", type=argument, default=0, metavar="TIME", help="90m, 2d, ISO")
    parser.add_argument("--tenant", help="only this tenant")
    parser.add_argument(
        "--limit", type=int, choices=range(1, _LIMIT_MAX + 1), default=50, metavar="N"
    )
    parser.add_argument("--cursor", default="", help="where the list before ended")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(words)


async def _ask(
    store: Store, options: argparse.Namespace
) -> IncidentPage | Timeline | ValueError | None:
    await trio.lowlevel.checkpoint()
    if options.id is not None:
        return await store.incident(options.id)
    try:
        return await store.incidents(
            since_unix_ms=options.since,
            limit=options.limit,
            cursor=options.cursor,
            tenant_id=options.tenant,
        )
    except ValueError as error:  # returned, for what leaves the loop comes out in a group
        return error


def main(words: Sequence[str], settings: Settings) -> int:
    """Print what was asked for; the exit code: 0, 1 no such incident, 74 the store."""
    options = _parse(words)
    try:
        found = read(settings.store, lambda store: _ask(store, options))
    except StoreError as error:
        stdio.say(str(error))
        return STORE_ERROR
    if found is None:
        stdio.say(f"{options.id}: there is no such incident")
        return NOT_FOUND
    if isinstance(found, ValueError):
        stdio.say(f"--cursor {options.cursor}: no list ended there")
        return NOT_FOUND
    if options.json:
        text = to_json(found)
    else:
        text = render(found) if isinstance(found, Timeline) else page_text(found)
    stdio.write_all(1, text)
    return 0
