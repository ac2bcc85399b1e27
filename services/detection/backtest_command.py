"""``python -m services.detection backtest RULE``: run rules over stored telemetry, or a recording.

Exit codes: 0; 1 more alerts than ``--gate`` allows, or a rule that cannot be used; 74 the store.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from actors import stdio
from actors.detection.conditions import RuleError
from actors.detection.rulefile import RuleFileError
from actors.detection.rules import AnyRule
from actors.recordings import Recording, RecordingError
from actors.rulebook import without_expired
from actors.rulefiles import today
from actors.usage import Parser, program_name
from services.detection.backtest import BackTest, render
from services.detection.rules import READERS, chosen, rule_files
from services.program import STORE_ERROR
from services.settings import Settings
from services.store.interface import Store, StoreError
from services.store.reading import read
from services.times import argument

FAILED = 1


def main(words: Sequence[str], settings: Settings) -> int:
    """Run it; the exit code."""
    options = _parse(words)
    try:
        rules = _rules(options.rule, settings)
        test = BackTest(rules, settings.filters, cpu_secs=time.process_time)
        began = time.monotonic()
        if options.recording is not None:
            _replay(test, options.recording)
        else:
            read(settings.store, lambda store: _read_store(test, store, options))
    except StoreError as error:
        stdio.say(str(error))
        return STORE_ERROR
    except (RuleError, RuleFileError, RecordingError) as error:
        stdio.say(str(error))
        return FAILED
    took_secs = time.monotonic() - began
    report = test.report
    if options.json:
        stdio.write_all(1, json.dumps(report.as_json() | {"took_secs": round(took_secs, 3)}) + "\n")
    else:
        stdio.write_all(1, render(report, took_secs=took_secs))
    if options.gate is not None and report.busiest_day > options.gate:
        stdio.say(f"{report.busiest_day} alerts on one day; --gate allows {options.gate}")
        return FAILED
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog=program_name("services.detection backtest", command="lavender backtest"),
        description="Run rules over the past.",
    )
    parser.add_argument("rule", nargs="+", help="rule files, folders, or ids of rules in force")
    parser.add_argument("--since", type=argument, default=argument("7d"), metavar="TIME")
    parser.add_argument("--until", type=argument, default=argument("0s"), metavar="TIME")
    parser.add_argument("--tenant", help="only this tenant")
    parser.add_argument("--agent", help="only this agent")
    parser.add_argument("--recording", type=Path, metavar="FILE", help="in place of the store")
    parser.add_argument(
        "--gate", type=int, metavar="N", help="fail above N alerts on any day, all hosts together"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(words)


def _rules(names: Sequence[str], settings: Settings) -> list[AnyRule]:
    """The rules that are named: files and folders, or ids.

    Raises:
        RuleFileError: one cannot be used, or there is none.
    """
    rules: list[AnyRule] = []
    paths = [Path(name) for name in names if Path(name).exists()]
    ids = [name for name in names if not Path(name).exists()]
    if paths:
        found = chosen(paths, READERS)
        for each in found.unusable:
            if not each.unsupported or not found.rules:
                raise RuleFileError(each.file, each.line, each.reason)
        rules += [without_expired(rule, today()) for rule, _ in found.rules]
    if ids:
        book = rule_files(settings.rules, settings.filters).book
        active: tuple[AnyRule, ...] = (*book.rules.rules, *book.rules.sequences)
        known = {each.id: each for each in active}
        for name in ids:
            if name not in known:
                raise RuleFileError(name, 0, "is no file, and no rule in force has this id")
            rules.append(known[name])
    if not rules:
        raise RuleFileError(names[0], 0, "has no rules")
    return rules


def _replay(test: BackTest, path: Path) -> None:
    recording = Recording(path)
    try:
        header = recording.header
        test.begin(header.hostname or path.name, header.boot_unix_ns)
        test.take(header.seeds)
        for events in recording:
            test.take(events)
        if recording.damage is not None:
            raise recording.damage
    finally:
        recording.close()


async def _read_store(test: BackTest, store: Store, options: argparse.Namespace) -> None:
    await trio.lowlevel.checkpoint()
    boot: tuple[str, str, str] | None = None
    async for chunk in store.history(
        since_unix_ms=options.since,
        until_unix_ms=options.until,
        tenant_id=options.tenant,
        agent_id=options.agent,
    ):
        here = (chunk.tenant_id, chunk.agent_id, chunk.host.boot_id)
        if here != boot:
            boot = here
            test.begin(chunk.host.hostname or chunk.agent_id, chunk.host.boot_unix_ns)
        test.take(chunk.events)
