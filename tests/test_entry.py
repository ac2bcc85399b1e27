"""How programs end where their output, their folder or their user's patience does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = (
    *("actors.agent", "services", "services.ingest", "services.telemetry_writer"),
    *("services.alert_writer", "services.detection", "services.stack", "services.ledger"),
)
PRINTING = (
    *((program, "--help") for program in PROGRAMS),
    *((program, "--version") for program in PROGRAMS if program != "services.ledger"),
    *((program, "--show-topology") for program in PROGRAMS[2:-1]),
    ("actors.agent", "--show-topology"),
    *(("services.detection", tool, "--help") for tool in ("rules", "backtest", "incidents")),
    ("services.detection", "rules", "list"),
    ("services.detection", "rules", "test"),
    ("services.detection", "rules", "show", "sensitive-file-read"),
)


def start(words: Sequence[str], *, cwd: Path = ROOT, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes]) -> tuple[int, list[str]]:
    """Exit code and lines of standard error."""
    _, said = process.communicate(timeout=60)
    return process.returncode, said.decode().splitlines()


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_full_disk_is_one_line(words: Sequence[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    code, said = end(start(words, stdout=full))
    os.close(full)
    assert (code, said) == (1, ["lavender: standard output: No space left on device"])


@pytest.mark.parametrize("words", [("services", "--help"), ("services.detection", "rules", "list")])
def test_a_reader_that_has_seen_enough_is_no_message(words: Sequence[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code, said = end(start(words, stdout=writer))
    os.close(writer)
    assert (code, said) == (1, [])


@pytest.mark.parametrize("words", [("services.stack",), ("services.stack", "--data", "data")])
def test_a_removed_working_directory_is_named(words: Sequence[str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", sys.executable, "-m", *words],
        cwd=gone,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    code, said = end(process)
    assert code == 2
    assert said[-1] == ("lavender: the working directory has been removed; change into another one")
    assert not [line for line in said if line.startswith(("Traceback", "  "))]


AS_STARTED = (
    "import runpy, sys, actors.entry; print('ready', flush=True);"
    " runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)
"""A program whose first import is done, which it says."""


@pytest.mark.parametrize("after_secs", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
@pytest.mark.parametrize("program", ["actors.agent", "services.ingest", "services.stack"])
def test_ctrl_c_in_the_first_second_is_no_traceback(
    program: str, after_secs: float, tmp_path: Path
) -> None:
    """Whatever it is about when the signal comes."""
    (tmp_path / "lavender.toml").write_bytes((ROOT / "lavender.toml").read_bytes())
    words = [program, *(("--data", str(tmp_path)) if program == "services.stack" else ())]
    words += ["--show-topology"] if program == "actors.agent" else []
    with subprocess.Popen(
        [sys.executable, "-c", AS_STARTED, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(after_secs)  # some moment; nothing is waited for
        process.send_signal(signal.SIGINT)
        code, said = end(process)
    assert code in {0, 130, -signal.SIGINT}
    assert not [line for line in said if line.startswith(("Traceback", "  File"))], said
