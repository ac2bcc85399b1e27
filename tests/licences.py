"""docs/LICENCES.md: whose work comes along. ``python -m tests.licences`` prints it.

What is listed says the locks; under which licence, the packages themselves.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_BEGIN = """# Licences

Lavender is Apache-2.0; the C under `bpf/` is BSD-2-Clause or GPL-2.0. It uses, and its packages
and images contain, what the first table lists. The distribution's packages (bcc, Python,
PostgreSQL, Redis and what they need) are under their own, in `/usr/share/doc/*/copyright`. Made
from `requirements.lock` by `make docs`; `make sbom` writes the first table as a CycloneDX document.
"""


def pinned(lock: str) -> set[str]:
    """Names in the text of a lock, as they are written there."""
    return set(_PINNED.findall(lock))


def document() -> str:
    """The whole of it."""
    part = (_ROOT / "docker" / "lock-part", "--extra", "services")
    installed = pinned(subprocess.run(part, check=True, capture_output=True, text=True).stdout)
    ours = pinned((_ROOT / "requirements.lock").read_text()) - installed
    return "\n".join(
        (
            _BEGIN,
            "## Installed with Lavender\n",
            *_table(installed),
            "\n## For development and tests only\n",
            *_table(ours),
            "",
        )
    )


def _table(names: set[str]) -> list[str]:
    rows = _said_by_packages(sorted(names))
    return [
        "| package | licence |",
        "|---|---|",
        *(f"| {each['Name']} | {_short(each['License'])} |" for each in rows),
    ]


def _said_by_packages(names: list[str]) -> list[dict[str, Any]]:
    command = (sys.executable, "-m", "piplicenses", "--format=json", "--with-system")
    words = [*command, "--packages", *names]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return sorted(json.loads(done.stdout), key=lambda each: str(each["Name"]).lower())


def _short(licence: str) -> str:
    """One line of it: some packages give the whole text."""
    return licence.strip().splitlines()[0].replace("|", "/")


if __name__ == "__main__":
    sys.stdout.write(document())
