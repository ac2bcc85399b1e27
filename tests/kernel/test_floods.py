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
PORTS = (4444, 1337, 9001, 9999, 6666, 31337, 5555)
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


def act(doer: Path, net: Island, place: Path, number: int) -> int:
    """Read a listed file, connect to a suspicious port and start a shell; the pid.

    Each of another name than those before, so that each is an alert that is told.
    """
    secret = place / ".ssh" / "id_rsa"
    secret.parent.mkdir(parents=True)
    secret.touch()
    words: list[str | Path] = ["open", secret, "connect", ADDRESS, str(PORTS[number])]
    words += ["run", copy_as(Path("/bin/dash"), place, "sh"), "-c", ":", "+"]
    process = subprocess.Popen([*net.enter, copy_as(doer, place, "needle"), *words])
    assert process.wait(30) == 0
    return process.pid


def hidden(running: Endpoint, acts: dict[int, Path]) -> list[tuple[str, str]]:
    """The acts of which there is neither an alert nor an event; by place and rule.

    Consoles and recorder drop what is too much for them, and count it: one of them is enough.
    """
    alerts = list(running.alerts)
    found = []
    for pid, place in acts.items():
        told = {each["rule"] for each in alerts if each["pid"] == pid}
        told |= {SHELL for each in alerts if each["rule"] == SHELL and f"{place}/sh" in str(each)}
        told |= {SHELL for _ in running.seen(type="exec", exe=str(place / "sh"))}
        told |= {READ for _ in running.seen(type="open", pid=pid, error=0)}
        told |= {PORT for _ in running.seen(type="connect", pid=pid)}
        found += [(place.name, rule) for rule in sorted(RULES - told)]
    return found


@pytest.fixture
def needles(tmp_path: Path, doer: Path, net: Island) -> Callable[[], dict[int, Path]]:
    """Acts that the rules name, one after the other; where each was done, by pid."""

    def do() -> dict[int, Path]:
        found = {}
        for number in range(len(PORTS)):
            time.sleep(PAUSE_SECS)
            place = tmp_path / str(number)
            found[act(doer, net, place, number)] = place
        return found

    return do


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
    needles: Callable[[], dict[int, Path]],
    refusing: Path,
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
        assert hidden(running, acts) == []
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
    shutil.copy(b"/bin/true", program)
    yield Path(os.fsdecode(program))
    shutil.rmtree(top)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("what", ["short", "long"])
def test_a_flood_of_executions_hides_no_act_of_others_without_an_alert(  # noqa: PLR0917 - as above
    build: Callable[[str], Path],
    needles: Callable[[], dict[int, Path]],
    deep: Path,
    tmp_path: Path,
    what: str,
    processes: int,
) -> None:
    with endpoint(record=tmp_path / "events", stdout=subprocess.DEVNULL) as running:
        program = deep if what == "long" else Path("/bin/true")
        with flood(build(FLOODS), "execs", program, processes) as pids:
            acts = needles()
        running.settle()
        missed = hidden(running, acts)
        floods = [e for e in running.seen(type="flood") if e["pid"] in pids]
        assert running.stop() == 0
    counts = running.stopped()["probes"]
    assert_balanced(counts)
    assert missed == []
    assert counts["exec"]["lost"] == 0
    if counts["exec"]["throttled"]:
        assert {e["probe"] for e in floods} == {"exec"}
        assert any(running.alerts_about(pid=pid, rule=LEFT_OUT) for pid in pids)
