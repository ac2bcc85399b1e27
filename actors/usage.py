"""How a program names itself in its help: as it was started."""

from __future__ import annotations

import sys
from pathlib import Path

_COMMANDS = {"lavender", "lavender-agent"}


def program_name(module: str, *, command: str) -> str:
    """What stands behind ``usage:``.

    Args:
        module: as ``python -m`` takes it, with what stands behind it.
        command: the same by the installed command.
    """
    return command if Path(sys.argv[0]).name in _COMMANDS else f"python -m {module}"
