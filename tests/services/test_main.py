"""The command ``lavender``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actors.version import VERSION
from services import __main__ as command

ROOT = Path(__file__).resolve().parents[2]
AS_INSTALLED = (
    "import sys; sys.argv[0] = '/usr/bin/lavender'; from {} import main; sys.exit(main())"
)


def lavender(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = before + AS_INSTALLED.format("services.__main__")
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_describes_each_program_and_is_no_error() -> None:
    done = lavender("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, program in command.PROGRAMS.items():
        assert f"  {name} " in done.stdout
        assert program.what in done.stdout


def test_every_program_of_the_backend_can_be_named() -> None:
    found = {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")}
    assert {program.module for program in command.PROGRAMS.values()} == found


@pytest.mark.parametrize("words", [(), ("no-such",), ("--no-such",)])
def test_what_is_no_program_is_an_error_that_lists_them(words: tuple[str, ...]) -> None:
    done = lavender(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == command.usage()


@pytest.mark.parametrize("name", list(command.PROGRAMS))
def test_each_names_itself_as_it_was_called(name: str) -> None:
    done = lavender(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: lavender {name} ")


def test_a_program_of_an_endpoint_without_the_backend_says_what_to_install() -> None:
    hide = "import sys; sys.modules['prometheus_client'] = sys.modules['yaml'] = None\n"
    done = lavender("stack", "--help", before=hide)
    assert done.returncode == 2
    assert done.stderr.startswith("lavender: stack needs ")
    assert done.stderr.endswith("which is not installed; install lavender[services]\n")
    assert lavender("--version", before=hide).stdout == f"Lavender {VERSION}\n"


def test_a_module_names_itself_as_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.ledger", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("usage: python -m services.ledger ")
