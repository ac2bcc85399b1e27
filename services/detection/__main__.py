"""``python -m services.detection``: a worker; with a tool's name behind it, that tool."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import actors.entry
from actors import config, logs, stdio
from services import program
from services.detection import backtest_command, incidents, rules_command
from services.parts import DETECTION
from services.settings import Settings

_TOOLS: dict[str, Callable[[Sequence[str], Settings], int]] = {
    "rules": rules_command.main,
    "backtest": backtest_command.main,
    "incidents": incidents.main,
}

_EPILOG = (
    "Tools, each with --help of its own, and --config FILE before its name: rules (check, list, "
    "test, explain, compile, show), backtest, incidents."
)


def main(words: Sequence[str]) -> int:
    """Run the worker or a tool; the exit code."""
    chosen: Path | None = None
    rest = list(words)
    if len(rest) > 2 and rest[0] == "--config" and rest[2] in _TOOLS:
        chosen, rest = Path(rest[1]), rest[2:]
    if not rest or rest[0] not in _TOOLS:
        return program.main(DETECTION, words, epilog=_EPILOG)
    stdio.open_missing()
    logs.configure(pretty=False)
    try:
        settings = program.load_settings(chosen)
    except config.ConfigError as error:
        stdio.say(str(error))
        return program.CONFIG_ERROR
    return _TOOLS[rest[0]](rest[1:], settings)


if __name__ == "__main__":
    actors.entry.run(partial(main, sys.argv[1:]))
