"""Floods of an unprivileged user: what others do beside them is told, and the flood is too."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint, assert_balanced, endpoint
from tests.kernel.workload import ADDRESS, NOBODY, Island, copy_as

FLOODS = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
/* Makes one call over and over until it is killed. */
static void run(char *path) {
  char *words[] = {path, "-c", ":", NULL};
  if (!vfork()) { execv(path, words); _exit(1); }
  wait(NULL);
}
int main(int argc, char **argv) {
  char *what = argv[1], *path = argv[2], name[4096];
  struct sockaddr_un un = {AF_UNIX, "/nowhere/at/all"};
  struct sockaddr_in in = {AF_INET, htons(53), {htonl(INADDR_LOOPBACK)}};
  int stream = socket(AF_UNIX, SOCK_STREAM, 0), datagrams = socket(AF_INET, SOCK_DGRAM, 0);
  char *words[] = {"x", NULL};
  alarm(60);
  for (unsigned long i = 0;; i++) {
    if (!strcmp(what, "execs-that-fail")) execv("/nowhere/at/all", words);
    else if (!strcmp(what, "unix-connects")) connect(stream, (void *)&un, sizeof un);
    else if (!strcmp(what, "datagram-connects")) connect(datagrams, (void *)&in, sizeof in);
    else if (!strcmp(what, "refused-opens")) {
      sprintf(name, "%s/%08lx", path, i);
      open(name, O_RDONLY);
    }
    else if (!strcmp(what, "execs")) run(path);
    else return 99;
  }
}
"""
SHELL, READ, PORT = (
    "T1059 [Unexpected shell spawn]",
    "T1003 [Sensitive file read]",
    "T1071 [Connection to suspicious port]",
)
RULES = {SHELL, READ, PORT}
LEFT_OUT, FLOOD = "T1562 [Calls left out]", "T1562 [Flood of calls]"
NEEDLES = 8
PAUSE_SECS = 0.4


@contextmanager
def flood(program: Path, what: str, path: Path, processes: int) -> Iterator[list[int]]:
    """An unprivileged user's processes that make one call over and over; their pids."""
    running = [
        subprocess.Popen([program, what, path], user=NOBODY, group=NOBODY, extra_groups=[])
        for _ in range(processes)
    ]
    try:
        yield [each.pid for each in running]
        assert all(each.poll() is None for each in running), "a flood ended by itself"
    finally:
        for each in running:
            each.kill()
            each.wait()


def needle(program: Path, net: Island, secret: Path, number: int) -> int:
    """Read a listed file, start a shell, connect to a suspicious port; the pid."""
    words: list[str | Path] = [
        "open",
        secret,
        "connect",
        ADDRESS,
        "4444",
        "run",
        "/bin/sh",
        "-c",
        f": n{number}",
        "+",
    ]
    process = subprocess.Popen([*net.enter, program, *words])
    assert process.wait(30) == 0
    return process.pid


def seen(running: Endpoint, pid: int, number: int, secret: Path) -> set[str]:
    """Which of a needle's acts detection was told of, by the rules that are about them.

    By alert or by event: consoles and recorder drop what is too much for them, and count it.
    """
    word = f": n{number}"
    execs = running.seen(type="exec", ppid=pid, error=0)
    alerts = list(running.alerts)
    return {
        *(each["rule"] for each in alerts if each["pid"] == pid and each["rule"] in RULES),
        *(SHELL for each in alerts if each["rule"] == SHELL and word in each["detail"]),
        *(SHELL for each in execs if word in each["argv"]),
        *(READ for _ in running.seen(type="open", pid=pid, filename=str(secret))),
        *(PORT for _ in running.seen(type="connect", pid=pid, dest_port=4444)),
    }


@pytest.fixture
def needles(tmp_path: Path, doer: Path, net: Island, secret: Path) -> Callable[[], dict[int, int]]:
    """Acts that the rules name, one after the other; numbers by pid."""
    program = copy_as(doer, tmp_path / "found", "needle")

    def thread() -> dict[int, int]:
        pids = {}
        for number in range(NEEDLES):
            time.sleep(PAUSE_SECS)
            pids[needle(program, net, secret, number)] = number
        return pids

    return thread


@pytest.fixture
def refusing(programs: Path) -> Iterator[Path]:
    """A folder into which only root may look."""
    folder = programs / "refusing"
    folder.mkdir(mode=0o700)
    yield folder
    folder.rmdir()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("what", "probe", "failed"),
    [
        ("execs-that-fail", "exec", True),
        ("unix-connects", "connect", True),
        ("datagram-connects", "connect", False),
        ("refused-opens", "open", True),
    ],
)
def test_a_flood_of_calls_that_cost_nothing_hides_no_act_and_is_told(  # noqa: PLR0917 - what the floods differ in
    build: Callable[[str], Path],
    needles: Callable[[], dict[int, int]],
    refusing: Path,
    secret: Path,
    tmp_path: Path,
    what: str,
    probe: str,
    processes: int,
    *,
    failed: bool,
) -> None:
    with endpoint(record=tmp_path / "events", stdout=subprocess.DEVNULL) as running:
        with flood(build(FLOODS), what, refusing, processes) as pids:
            acts = needles()
        running.settle()
        assert {n for pid, n in acts.items() if seen(running, pid, n, secret) != RULES} == set()
        assert {each["rule"] for each in list(running.alerts)} >= RULES
        floods = [e for e in running.seen(type="flood") if e["pid"] in pids]
        assert {e["probe"] for e in floods} == {probe}
        assert {e["failed"] for e in floods} == {failed}
        assert {e["uid"] for e in floods} == {NOBODY}
        assert max(e["throttled"] for e in floods) > 1000
        rules = {each["rule"] for pid in pids for each in running.alerts_about(pid=pid)}
        assert {LEFT_OUT, *([FLOOD] if failed else [])} <= rules
        assert running.stop() == 0
    counts = running.stopped()["probes"]
    assert_balanced(counts)
    assert counts[probe]["throttled"] > 10_000
    assert running.stopped()["lost_in_kernel"] == 0


@pytest.fixture
def deep(programs: Path) -> Iterator[Path]:
    """A program of an unprivileged user behind 3.8 KB of bytes that are not UTF-8."""
    top = programs / "deep"
    top.mkdir()
    folder = os.fsencode(top)
    while len(folder) < 3800:
        folder += b"/" + b"\xff" * min(255, 3840 - len(folder))
        os.mkdir(folder)  # noqa: PTH102 - bytes that are no text
    program = folder + b"/program"
    shutil.copy("/bin/true", program)
    yield Path(os.fsdecode(program))
    shutil.rmtree(top)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("what", ["short", "long"])
def test_a_flood_of_executions_hides_no_act_of_others_without_an_alert(  # noqa: PLR0917 - as above
    build: Callable[[str], Path],
    needles: Callable[[], dict[int, int]],
    deep: Path,
    secret: Path,
    tmp_path: Path,
    what: str,
    processes: int,
) -> None:
    with endpoint(record=tmp_path / "events", stdout=subprocess.DEVNULL) as running:
        program = deep if what == "long" else Path("/bin/true")
        with flood(build(FLOODS), "execs", program, processes) as pids:
            acts = needles()
        running.settle()
        hidden = {n for pid, n in acts.items() if seen(running, pid, n, secret) != RULES}
        floods = [e for e in running.seen(type="flood") if e["pid"] in pids]
        assert running.stop() == 0
    counts = running.stopped()["probes"]
    assert_balanced(counts)
    assert not hidden
    assert counts["exec"]["lost"] == 0
    if counts["exec"]["throttled"]:
        assert {e["probe"] for e in floods} == {"exec"}
        assert any(running.alerts_about(pid=pid, rule=LEFT_OUT) for pid in pids)
