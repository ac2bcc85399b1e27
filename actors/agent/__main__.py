"""``python -m actors.agent``: the command line."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from actors import config, logs, stdio
from actors.agent import checks, endpoint
from actors.agent.exits import ExitCode, StartError
from actors.agent.settings import Settings
from actors.runtime import TopologyError, render
from actors.version import VERSION


def parse_arguments(words: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m actors.agent", description="The Lavender endpoint agent."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="use this lavender.toml")
    parser.add_argument(
        "--output",
        choices=("json", "pretty", "none"),
        default="json",
        help="how to print events and alerts (default: json)",
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="record events for --replay")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--replay", type=Path, metavar="FILE", help="detect on a recording; no root")
    mode.add_argument("--check", action="store_true", help="say whether the agent can run here")
    mode.add_argument("--show-topology", action="store_true", help="print actors and edges")
    parser.add_argument("--version", action="version", version=f"Lavender {VERSION}")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Run; the exit code."""
    options = parse_arguments(sys.argv[1:] if words is None else words)
    stdio.open_missing()
    logs.configure(pretty=options.output == "pretty")
    try:
        return _run(options)
    except config.ConfigError as error:
        _say(str(error))
        return ExitCode.CONFIG
    except StartError as error:
        _say(str(error))
        return error.code


def _run(options: argparse.Namespace) -> int:
    program = Path(__file__).resolve().parent
    settings, source = config.load(
        Settings, start=_working_directory() or program, program=program, chosen=options.config
    )
    if source.path is None:
        _say("warning: no lavender.toml found; using the built-in defaults")
    try:
        topology = endpoint.build_topology(settings)
    except TopologyError as error:
        lines = [f"{source}: {problem}" for problem in error.problems]
        raise config.ConfigError("\n".join(lines)) from error
    if options.show_topology:
        return _print(render(topology))
    if options.check:
        table, good = checks.check(settings, source)
        return _print(table) or (0 if good else 1)
    if options.replay:
        return endpoint.replay(settings, options.replay, output=options.output)
    return endpoint.watch(settings, output=options.output, record=options.record)


def _working_directory() -> Path | None:
    """None if it has been removed."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _print(text: str) -> int:
    """Print what was asked for; the exit code."""
    try:
        stdio.write_all(1, text)
    except OSError as error:
        _say(f"standard output: {error.strerror}")
        return 1
    return 0


def _say(text: str) -> None:
    """One message for the operator; without standard error there is nobody to tell."""
    with contextlib.suppress(OSError):
        stdio.write_all(2, f"lavender: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
