"""What the command line asks for: a check, the topology, a replay, a clean-up, or to watch."""

from __future__ import annotations

import argparse
from pathlib import Path

from actors import config, logs, stdio
from actors.agent import checks, endpoint
from actors.agent.exits import ExitCode, StartError
from actors.agent.settings import Settings
from actors.detection.rulefile import RuleFileError
from actors.rulebook import folder_of
from actors.rulefiles import RuleFiles
from actors.runtime import TopologyError, render
from bpf.attach import Loading


def run(options: argparse.Namespace, loading: Loading | None) -> int:
    """Do it; the exit code.

    Args:
        options: of `actors.agent.__main__`.
        loading: the loader at work already, if any; it is the caller's to stop.
    """
    logs.configure(pretty=options.output == "pretty")
    try:
        return _run(options, loading)
    except config.ConfigError as error:
        stdio.say(str(error))
        return ExitCode.CONFIG
    except StartError as error:
        stdio.say(str(error))
        return error.code


def _run(options: argparse.Namespace, loading: Loading | None) -> int:
    program = Path(__file__).resolve().parent
    settings, source = config.load(
        Settings, start=_working_directory() or program, program=program, chosen=options.config
    )
    if source.path is None:
        stdio.say("warning: no lavender.toml found; using the built-in defaults")
    if options.detach:
        stdio.write_all(1, endpoint.detach(settings.agent.agent_id))
        return 0
    try:
        topology = endpoint.build_topology(settings)
    except TopologyError as error:
        lines = [f"{source}: {problem}" for problem in error.problems]
        raise config.ConfigError("\n".join(lines)) from error
    if options.show_topology:
        stdio.write_all(1, render(topology))
        return 0
    folder = folder_of(settings.rules, source.path)
    rules = RuleFiles(settings.rules, settings.filters, folder=folder)
    if options.check:
        table, good = checks.check(settings, source, rules)
        stdio.write_all(1, table)
        return 0 if good else 1
    try:
        rules.book  # noqa: B018 - read now: what cannot be used is said before anything is attached
    except RuleFileError as error:
        raise config.ConfigError(f"[rules] folder: {error}") from error
    if options.replay:
        return endpoint.replay(settings, options.replay, rules=rules, output=options.output)
    return endpoint.watch(
        settings, rules=rules, output=options.output, record=options.record, loading=loading
    )


def _working_directory() -> Path | None:
    """None if it has been removed."""
    try:
        return Path.cwd()
    except OSError:
        return None
