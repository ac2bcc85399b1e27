"""``lavender NAME …``: a program of the backend by its name, as ``python -m services.NAME``.

Imports nothing that an endpoint's installation lacks, so that it can say what is missing.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import actors.entry
from actors import stdio
from actors.version import VERSION

USAGE_ERROR = 2


class Program(NamedTuple):
    """A program that can be named."""

    module: str
    words: tuple[str, ...]
    """What stands in front of its own words."""
    what: str


PROGRAMS = {
    "stack": Program("stack", (), "the whole backend on one machine, in one process"),
    "ingest": Program("ingest", (), "checks what agents send and passes it on"),
    "telemetry-writer": Program("telemetry_writer", (), "stores events"),
    "alert-writer": Program("alert_writer", (), "stores alerts"),
    "detection": Program("detection", (), "a detection worker"),
    "incidents": Program("detection", ("incidents",), "lists incidents, or shows one"),
    "rules": Program("detection", ("rules",), "checks, lists, tests and explains rules"),
    "backtest": Program("detection", ("backtest",), "runs rules over the past"),
    "ledger": Program("ledger", (), "says where every event has gone"),
}


def usage() -> str:
    """What `--help` prints."""
    width = max(map(len, PROGRAMS))
    lines = [f"  {name:{width}}  {program.what}" for name, program in PROGRAMS.items()]
    return (
        "usage: lavender NAME [OPTION…] | --help | --version\n\n"
        + "\n".join(lines)
        + "\n\nEach has --help of its own. The endpoint's agent is lavender-agent.\n"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run one; the exit code."""
    given = list(sys.argv[1:] if words is None else words)
    if given == ["--version"]:
        stdio.write_all(1, f"Lavender {VERSION}\n")
        return 0
    if given in (["--help"], ["-h"]):
        stdio.write_all(1, usage())
        return 0
    chosen = PROGRAMS.get(given[0].replace("_", "-")) if given else None
    if chosen is None:
        stdio.write_all(2, usage())
        return USAGE_ERROR
    sys.argv[1:] = [*chosen.words, *given[1:]]
    try:
        runpy.run_module(f"services.{chosen.module}", run_name="__main__")  # ends by sys.exit
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"services", "actors", "transport", "bpf"}:
            raise
        stdio.write_all(
            2,
            f"lavender: {given[0]} needs {error.name}, which is not installed;"
            " install lavender[services]\n",
        )
        return USAGE_ERROR
    return 0


def program() -> NoReturn:
    """The installed command."""
    actors.entry.run(main)


if __name__ == "__main__":
    program()
