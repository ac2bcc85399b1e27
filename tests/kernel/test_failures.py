"""What goes wrong around the agent: it says so, hangs never, and ends with its own exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.endpoint import assert_balanced, endpoint, run_agent
from tests.kernel.test_counters import EXEC_FLOOD
from tests.kernel.workload import run
from tests.shipped import shipped_for_all

DRAIN_SECS = 5.0
READ = "T1003 [Sensitive file read]"
FORK_STORM = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
  for (int i = 0; i < atoi(argv[1]); i++) {
    if (!fork()) _exit(0);
    wait(0);
  }
}
"""

CRASHING = """
import sys
from bpf import decode, errors
from actors.agent.__main__ import main
true = decode.decode_execs
crashes = 0
def decoder(window, make):
    global crashes
    events, size = true(window, make)
    if any("crash-the-reader" in event.argv for event in events):
        crashes += 1
        if crashes <= {times}:
            raise {error}
    return events, size
decode.decode_execs = decoder
sys.exit(main(sys.argv[1:]))
"""

WITHOUT_BCC = """
import shutil, sys
from bpf import attach
from actors.agent.__main__ import main
attach._PYTHONS = ()
shutil.which = lambda *_, **__: None
sys.exit(main(sys.argv[1:]))
"""

UNPRIVILEGED = """
import os, sys
from actors.agent import command  # while we may still read it
from actors.agent.__main__ import main
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
sys.exit(main(sys.argv[1:]))
"""


def hidden(path: str, *, then: str = "true") -> tuple[str, ...]:
    """Before a command: a folder is empty for that command, and for nobody else."""
    script = f'mount -t tmpfs none {path} && {then} && exec "$@"'
    return ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh")


# Before it starts


def test_without_root_it_says_to_use_sudo() -> None:
    code, _, stderr = run_agent(program=("-c", UNPRIVILEGED), config=shipped_for_all())
    assert code == 77
    assert "sudo" in stderr
    assert len(stderr.splitlines()) == 1


def test_without_bcc_it_says_what_to_install() -> None:
    code, _, stderr = run_agent(program=("-c", WITHOUT_BCC))
    assert code == 3
    assert "python3-bpfcc" in stderr


def test_without_btf_it_says_so() -> None:
    code, _, stderr = run_agent(prefix=hidden("/sys/kernel/btf"))
    assert code == 4
    assert "BTF" in stderr
    assert "Traceback" not in stderr


def test_without_a_tracepoint_it_names_it() -> None:
    prefix = hidden("/sys/kernel/tracing", then="mkdir /sys/kernel/tracing/events")
    code, _, stderr = run_agent(prefix=prefix)
    assert code == 5
    assert "sched/sched_process_fork" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[filters]\nshell_name = ['sh']\n", ("filters.shell_name", "shell_names")),
        ("[response]\nkill_threshold = 'high'\n", ("response.kill_threshold", "'high'")),
        ("[agent\n", ("not valid TOML",)),
    ],
)
def test_a_bad_configuration_stops_it_before_anything_is_attached(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    config = tmp_path / "lavender.toml"
    config.write_text(text)
    code, _, stderr = run_agent(config=config)
    assert code == 2
    for word in (str(config), *words):
        assert word in stderr


def test_a_second_agent_is_told_of_the_first() -> None:
    with endpoint() as running:
        code, stdout, stderr = run_agent(retry=False)
        assert code == 7
        assert "another Lavender agent" in stderr
        assert stdout == ""
        assert running.process.poll() is None
        assert running.stop() == 0


def test_check_prints_a_table_and_attaches_nothing() -> None:
    code, table, _ = run_agent("--check")
    assert code == 0
    for row in ("configuration", "topology", "root", "bcc", "kernel types", "tracepoints", "bpffs"):
        assert row in table
    assert "FAIL" not in table
    code, table, _ = run_agent("--check", program=("-c", UNPRIVILEGED), config=shipped_for_all())
    assert code == 1
    assert "FAIL  root" in table


def test_a_recording_that_cannot_be_written_stops_it(tmp_path: Path) -> None:
    code, _, stderr = run_agent("--record", str(tmp_path / "missing" / "file"))
    assert code == 8
    assert str(tmp_path / "missing" / "file") in stderr


# While it runs


def test_a_closed_standard_output_stops_nothing(doer: Path, tmp_path: Path) -> None:
    secret = tmp_path / ".ssh" / "id_rsa"
    secret.parent.mkdir()
    secret.touch()
    with endpoint(reads_stdout=False) as running:
        assert running.process.stdout is not None
        running.process.stdout.close()
        for _ in range(20):
            run("/usr/bin/true")
        pid, _ = run(doer, "open", secret)
        assert running.alert(READ, pid)
        assert running.stop() == 0
        assert running.stopped()["lines_not_printed"] >= 20
        assert running.stopped()["level"] == "warning"
        assert [log for log in running.logs if "output closed" in log["event"]]


def test_a_reader_that_takes_one_line_ends_nothing(doer: Path) -> None:
    with endpoint(reads_stdout=False) as running:
        assert running.process.stdout is not None
        head = subprocess.Popen(
            ["/usr/bin/head", "-n", "1"], stdin=running.process.stdout, stdout=subprocess.PIPE
        )
        running.process.stdout.close()
        run("/usr/bin/true")
        first, _ = head.communicate(timeout=10)
        assert json.loads(first)["type"] == "exec"
        running.settle()
        assert running.stop() == 0


def test_a_reader_that_reads_nothing_costs_lines_and_no_alert(
    build: Callable[[str], Path], doer: Path, tmp_path: Path
) -> None:
    secret = tmp_path / ".ssh" / "id_rsa"
    secret.parent.mkdir()
    secret.touch()
    with endpoint(reads_stdout=False) as running:
        run(build(EXEC_FLOOD), "3000")
        pid, _ = run(doer, "open", secret)
        assert running.alert(READ, pid)
        # Nobody ever reads: the drain ends at its deadline, and says what was not printed.
        started = time.monotonic()
        code = running.stop(within_secs=DRAIN_SECS + 5)
        assert time.monotonic() - started < DRAIN_SECS + 3
        assert code == 75
        stopped = running.stopped()
        assert stopped["reason"] == "overdue"
        assert stopped["dropped_by_actors"] > 0
        assert stopped["lost_in_kernel"] == 0
        assert_balanced(stopped["probes"])


def test_a_second_interrupt_leaves_at_once(build: Callable[[str], Path]) -> None:
    with endpoint(reads_stdout=False) as running:
        run(build(EXEC_FLOOD), "1500")
        running.process.send_signal(signal.SIGINT)
        running.wait_for(lambda: [log for log in running.logs if log["event"] == "draining"])
        started = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(5) == 130
        assert time.monotonic() - started < 1.5


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", folder], check=True)


def test_a_full_disk_costs_the_recording_and_nothing_else(
    build: Callable[[str], Path], doer: Path, tmp_path: Path
) -> None:
    secret = tmp_path / ".ssh" / "id_rsa"
    secret.parent.mkdir()
    secret.touch()
    with small_disk(tmp_path / "disk", 512) as disk:
        with endpoint("--record", str(disk / "events")) as running:
            run(build(EXEC_FLOOD), "1500")
            pid, _ = run(doer, "open", secret)
            assert running.alert(READ, pid)
            assert running.stop() == 0
            assert [log for log in running.logs if "recording fails" in log["event"]]
            incomplete = [log for log in running.logs if log["event"] == "recording is incomplete"]
            assert incomplete[0]["events_dropped"] > 0
        lines = (disk / "events").read_bytes().splitlines(keepends=True)
        assert len(lines) > 1
        for line in lines:  # whole lines, to the last
            assert line.endswith(b"\n")
            json.loads(line)


def test_a_reader_that_crashes_comes_back_and_loses_nothing() -> None:
    program = ("-c", CRASHING.format(times=1, error="RuntimeError('a bug')"))
    with endpoint(program=program) as running:
        pid, _ = run("/usr/bin/true", "crash-the-reader")
        later, _ = run("/usr/bin/true", "later")
        assert running.printed(type="exec", pid=pid)
        assert running.printed(type="exec", pid=later)
        assert running.stop() == 0
        assert "a bug" in str(running.logs)
        assert running.stopped()["lost_in_kernel"] == 0


def test_corrupt_records_are_skipped_and_said() -> None:
    program = ("-c", CRASHING.format(times=1, error="errors.RecordError('no such layout')"))
    with endpoint(program=program) as running:
        run("/usr/bin/true", "crash-the-reader")
        running.wait_for(lambda: [log for log in running.logs if "corrupt" in log["event"]])
        later, _ = run("/usr/bin/true", "later")
        assert running.printed(type="exec", pid=later)
        assert running.stop() == 0


def test_a_reader_that_crashes_for_ever_ends_the_agent_with_its_reason() -> None:
    program = ("-c", CRASHING.format(times=1000, error="RuntimeError('a bug for ever')"))
    with endpoint(program=program) as running:
        run("/usr/bin/true", "crash-the-reader")
        assert running.process.wait(20) == 70
        running.stop()
        assert "a bug for ever" in str(running.logs)
        assert running.stopped()["reason"] == "escalated"


def test_a_stop_under_a_flood_of_executions_drains(build: Callable[[str], Path]) -> None:
    with endpoint() as running:
        flood = subprocess.Popen([build(EXEC_FLOOD), "1000000"])
        try:
            running.wait_for(lambda: len(running.events) > 500)
            started = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - started < DRAIN_SECS
            assert running.stopped()["reason"] == "drained"
            assert_balanced(running.stopped()["probes"])
        finally:
            flood.kill()
            flood.wait()


def test_a_fork_storm_stays_within_the_tables_bound(build: Callable[[str], Path]) -> None:
    with endpoint(
        LAVENDER_FILTERS__MAX_PROCESSES="512", LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS="0.1"
    ) as running:
        run(build(FORK_STORM), "3000")
        running.settle()
        running.wait_for(
            lambda: running.statuses and running.statuses[-1]["detection"]["forks"] >= 3000
        )
        tables = [status["detection"]["table"] for status in running.statuses]
        assert max(table["processes"] for table in tables) <= 512
        assert tables[-1]["evicted_exited"] > 0
        pid, _ = run("/usr/bin/true")
        assert running.printed(type="exec", pid=pid)["ancestry"].endswith("=>true")
        assert running.stop() == 0


def test_closed_descriptors_at_the_start_harm_no_file(tmp_path: Path) -> None:
    record = tmp_path / "events"
    prefix = ("/bin/sh", "-c", 'exec "$@" <&- >&-', "sh")
    with endpoint(prefix=prefix, record=record) as running:
        pid, _ = run("/usr/bin/true")
        assert running.event(type="exec", pid=pid)
        assert running.stop() == 0
    for line in record.read_bytes().splitlines():
        json.loads(line)


def test_a_killed_agent_leaves_nothing_in_the_way_of_the_next() -> None:
    with endpoint() as running:
        running.process.kill()
        running.process.wait()
    with endpoint() as running:
        pid, _ = run("/usr/bin/true")
        assert running.printed(type="exec", pid=pid)
        assert running.stop() == 0
