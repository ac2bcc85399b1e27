"""``python -m actors.agent``: the command line.

The loader takes longer to start than anything else, so it is set to work before the agent imports
the rest of itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

import actors.entry
from actors import stdio
from actors.usage import Parser, program_name
from actors.version import VERSION
from bpf.attach import Loading
from bpf.errors import MissingBcc


def parse_arguments(words: list[str]) -> argparse.Namespace:
    """The options."""
    parser = Parser(
        prog=program_name("actors.agent", command="lavender-agent"),
        description="The Lavender endpoint agent.",
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
    mode.add_argument(
        "--detach", action="store_true", help="remove the probes that a crashed agent left running"
    )
    parser.add_argument("--version", action="version", version=f"Lavender {VERSION}")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Run; the exit code."""
    options = parse_arguments(sys.argv[1:] if words is None else words)
    stdio.open_missing()
    loading = _set_to_work(options)
    try:
        from actors.agent import command  # noqa: PLC0415 - the loader works meanwhile

        return command.run(options, loading)
    finally:
        if loading is not None:
            loading.abandon()


def _set_to_work(options: argparse.Namespace) -> Loading | None:
    """The loader, if the agent is to watch. It attaches nothing before the agent tells it to."""
    only_looks = options.replay or options.check or options.show_topology or options.detach
    if only_looks or os.geteuid() != 0:
        return None
    try:
        return Loading()
    except MissingBcc:  # there may be other reasons not to start, which go first
        return None


def program() -> NoReturn:
    """The installed command."""
    actors.entry.run(main)


if __name__ == "__main__":
    program()
