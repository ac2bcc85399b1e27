"""``python -m services.detection rules``: check, list, test, explain, compile and show rules.

Exit codes: 0; 1 a rule that cannot be used, a test that failed, or an event that is not there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from actors import rule_folders, rulebook, stdio
from actors.detection import builtin
from actors.detection.conditions import RuleError
from actors.detection.events import AnyEvent
from actors.detection.explain import Explained, explain
from actors.detection.rulefile import RuleFileError
from actors.detection.rules import AnyRule
from actors.detection.ruleset import RuleSet
from actors.detection.ruletest import run_tests
from actors.detection.text import printable
from actors.recordings import Recording, RecordingError
from actors.rulebook import RuleBook
from actors.rulefiles import today
from actors.usage import Parser, program_name
from services.detection.rules import READERS, chosen, rule_files
from services.settings import Settings

FAILED = 1
_EVENTS_EXPLAINED_MAX = 20
_LINE_MAX = 4096


def main(words: Sequence[str], settings: Settings) -> int:
    """Do it; the exit code."""
    options = _parse(words)
    try:
        code: int = options.run(options, settings)
    except (RuleError, RuleFileError, RecordingError) as error:
        stdio.say(str(error))
        return FAILED
    return code


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=program_name("services.detection rules", command="lavender rules"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[..., int], what: str, *, paths: str) -> Any:
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("paths", nargs=paths, type=Path, metavar="PATH")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=run)
        return command

    add("check", _check, "say what is wrong with rule files", paths="+")
    add("list", _list, "list the rules of files, or those in force", paths="*")
    add("test", _test, "run the tests that rules bring", paths="*")
    made = add("explain", _explain, "say what a rule makes of recorded events", paths="+")
    made.add_argument("--recording", type=Path, required=True, metavar="FILE")
    made.add_argument("--event", type=int, metavar="N", help="the Nth event of the recording")
    made.add_argument("--rule", metavar="ID", help="which rule, if the paths have several")
    made = add("compile", _compile, "write rules in the form that agents read", paths="+")
    made.add_argument("--output", type=Path, required=True, metavar="FILE")
    command = commands.add_parser("show", help="print the file of a built-in rule, to copy")
    command.add_argument("id", choices=builtin.NAMES, metavar="ID")
    command.set_defaults(run=_show)
    return parser.parse_args(words)


def _book(paths: Sequence[Path], settings: Settings) -> RuleBook:
    """The rules of files; without any, those in force."""
    if not paths:
        return rule_files(settings.rules, settings.filters).book
    return rulebook.assemble(
        chosen(paths, READERS), settings.rules, settings.filters, today=today(), built_in=False
    )


def _active(book: RuleBook) -> tuple[AnyRule, ...]:
    return (*book.rules.rules, *book.rules.sequences)


def _check(options: argparse.Namespace, settings: Settings) -> int:
    book = _book(options.paths, settings)
    wrong = [each for each in book.unusable if not each.unsupported]
    if options.json:
        _print_json(
            {
                "rules": len(book.rows) - len(book.unusable),
                "problems": [asdict(each) for each in book.unusable],
            }
        )
    else:
        lines = [
            f"{_line(each)}{' (unsupported)' if each.unsupported else ''}" for each in book.unusable
        ]
        good = len(book.rows) - len(book.unusable)
        unsupported = len(book.unusable) - len(wrong)
        lines += [
            f"{path}: not read: the name of a rule file ends in {', '.join(sorted(READERS))}"
            for path in rule_folders.passed_over(options.paths, READERS)
        ]
        lines.append(f"{good} rules are good, {unsupported} unsupported, {len(wrong)} wrong")
        _print("\n".join(lines))
    return FAILED if wrong or not book.rows else 0


def _list(options: argparse.Namespace, settings: Settings) -> int:
    book = _book(options.paths, settings)
    if options.json:
        _print_json([asdict(row) for row in book.rows])
        return 0
    lines = [
        f"{row.status:<12} {row.source:<9} {row.id:<38} {_line(row.title)}"
        f"{f'  - {_line(row.reason)}' if row.reason else ''}"
        f"{f'  ({_line(row.note)})' if row.note else ''}"
        for row in book.rows
    ]
    _print("\n".join(lines))
    return 0


def _test(options: argparse.Namespace, settings: Settings) -> int:
    book = _book(options.paths, settings)
    outcomes = [
        outcome
        for rule in _active(book)
        for outcome in run_tests(rule, RuleSet(settings.filters, [rule]))
    ]
    failed = [each for each in outcomes if not each.passed]
    wrong = [each for each in book.unusable if not each.unsupported]
    untested = [rule.id for rule in _active(book) if not rule.tests]
    if options.json:
        _print_json(
            {
                "tests": [
                    {**msgspec.to_builtins(each), "passed": each.passed} for each in outcomes
                ],
                "untested": untested,
                "problems": [asdict(each) for each in wrong],
            }
        )
    else:
        lines = [_line(each) for each in wrong]
        lines += [
            f"FAIL  {each.rule_id}: {_line(each.test)}: "
            f"{'did not match' if each.wanted else 'matched, and must not'}"
            for each in failed
        ]
        lines.append(
            f"{len(outcomes) - len(failed)} tests passed, {len(failed)} failed; "
            f"{len(untested)} rules bring no tests"
        )
        _print("\n".join(lines))
    return FAILED if failed or wrong else 0


def _explain(options: argparse.Namespace, settings: Settings) -> int:
    book = _book(options.paths, settings)
    rules = [each for each in _active(book) if options.rule in {None, each.id}]
    if len(rules) != 1:
        for problem in book.unusable:
            stdio.say(_line(problem))
        ids = ", ".join(each.id for each in _active(book)[:10])
        raise RuleError(f"explain takes one rule; say --rule with one of: {ids or 'there is none'}")
    recording = Recording(options.recording)
    try:
        found = explain(
            rules[0], book.rules, _recorded(recording), hostname=recording.header.hostname
        )
        if options.event is not None:
            shown = [each for each in found if each.number == options.event]
        else:
            shown = _most_telling(found)
    finally:
        recording.close()
    if not shown:
        stdio.say(f"{options.recording}: no such event that {rules[0].id} could be about")
        return FAILED
    if options.json:
        _print_json([msgspec.to_builtins(each) for each in shown])
        return 0
    for each in shown:
        _print(f"event {each.number}, {each.event}: {'matches' if each.held else 'does not match'}")
        _print("\n".join(_line(line) for part in each.parts for line in part.lines("  ")))
    return 0


def _most_telling(found: Iterator[Explained] | Any) -> list[Explained]:
    """The first events that match; if none does, the one that came nearest."""
    matching: list[Explained] = []
    nearest: tuple[float, Explained] | None = None
    for each in found:
        if each.held:
            matching.append(each)
            if len(matching) == _EVENTS_EXPLAINED_MAX:
                break
        elif not matching:
            near = max(map(_nearness, each.parts), default=0.0)
            if nearest is None or near > nearest[0]:
                nearest = (near, each)
    return matching or ([] if nearest is None else [nearest[1]])


def _nearness(part: Any) -> float:
    """The share of a part that held."""
    if not part.parts or part.held:
        return float(part.held)
    shares = [_nearness(each) for each in part.parts]
    return max(shares) if part.says == "any of" else sum(shares) / len(shares)


def _recorded(recording: Recording) -> Iterator[AnyEvent]:
    yield from recording.header.seeds
    for events in recording:
        yield from events
    if recording.damage is not None:
        raise recording.damage


def _compile(options: argparse.Namespace, settings: Settings) -> int:
    book = _book(options.paths, settings)
    rules = [msgspec.structs.replace(rule, tests=()) for rule in _active(book)]
    raw = msgspec.json.encode(rules)
    try:
        options.output.write_bytes(raw)
    except OSError as error:
        raise RuleFileError(
            str(options.output), 0, f"cannot be written: {error.strerror}"
        ) from error
    wrong = [each for each in book.unusable if not each.unsupported]
    for each in wrong:
        stdio.say(_line(each))
    _print(f"{options.output}: {len(rules)} rules, {len(book.unusable)} left out")
    return FAILED if wrong else 0


def _show(options: argparse.Namespace, _settings: Settings) -> int:
    stdio.write_all(1, builtin.text_of(options.id))
    return 0


def _line(what: object) -> str:
    """One line, whatever a file or an event has in it."""
    return printable(str(what), limit=_LINE_MAX)


def _print(text: str) -> None:
    stdio.write_all(1, f"{text}\n")


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2))
