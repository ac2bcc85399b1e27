"""Command lines: what they print of themselves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from actors import stdio

_COMMANDS = {"lavender", "lavender-agent"}


def program_name(module: str, *, command: str) -> str:
    """What stands behind ``usage:``, as the program was started.

    Args:
        module: as ``python -m`` takes it, with what stands behind it.
        command: the same by the installed command.
    """
    return command if Path(sys.argv[0]).name in _COMMANDS else f"python -m {module}"


class Parser(argparse.ArgumentParser):
    """A parser whose help fails as all other output does, by `stdio.OutputError`."""

    def _print_message(self, message: str, file: Any = None) -> None:
        stdio.write_all(2 if file is sys.stderr else 1, message)
