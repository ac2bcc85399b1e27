"""``python -m tests.audit LOCK…``: known vulnerabilities of what is pinned; a part of `make lint`.

Fails on one that is known. Offline, or where the package index knows of none at all, it says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

SOURCES = ("pypi", "osv")
_SECS = 120


def report(found: str) -> tuple[list[str], int]:
    """What pip-audit's JSON says: lines for people, and how many packages were looked up."""
    packages = json.loads(found)["dependencies"]
    looked_up = [each for each in packages if "vulns" in each]
    lines = [
        f"{each['name']} {each['version']}: {hole['id']}, mended in"
        f" {', '.join(hole['fix_versions']) or 'no version yet'}"
        for each in looked_up
        for hole in each["vulns"]
    ]
    return lines, len(looked_up)


def ask(source: str, locks: Sequence[str]) -> str:
    """pip-audit's JSON, or empty if it could not reach that source."""
    words = ["-s", source, "-f", "json", "--progress-spinner", "off", "--disable-pip"]
    given = [word for lock in locks for word in ("-r", lock)]
    command = [sys.executable, "-m", "pip_audit", *words, "--require-hashes", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECS)
    return done.stdout if done.stdout.startswith("{") else ""


def main(locks: Sequence[str]) -> int:
    """Ask one source after the other until one knows something; the exit code."""
    for source in SOURCES:
        found = ask(source, locks)
        lines, looked_up = report(found) if found else ([], 0)
        if looked_up:
            sys.stdout.writelines(f"{line}\n" for line in lines)
            said = f"{len(lines)} known vulnerabilities in {looked_up} packages ({source})"
            sys.stdout.write(f"{said}\n")
            return 1 if lines else 0
    sys.stdout.write("vulnerabilities: not looked up, neither pypi nor osv can be reached\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
