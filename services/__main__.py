"""``lavender NAME …``: a program of the backend by its name, as ``python -m services.NAME``."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from actors.version import VERSION
from services.program import CONFIG_ERROR, say


def names() -> list[str]:
    """The programs there are."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__main__.py"))


def main(words: Sequence[str] | None = None) -> int:
    """Run one; the exit code."""
    given = list(sys.argv[1:] if words is None else words)
    if given == ["--version"]:
        sys.stdout.write(f"Lavender {VERSION}\n")
        return 0
    name = given[0].replace("-", "_") if given else ""
    if name not in names():
        say(f"usage: lavender NAME [OPTION…] | --version; NAME is one of {', '.join(names())}")
        return CONFIG_ERROR
    sys.argv[1:] = given[1:]
    runpy.run_module(f"services.{name}", run_name="__main__", alter_sys=True)  # ends by sys.exit
    return 0


if __name__ == "__main__":
    sys.exit(main())
