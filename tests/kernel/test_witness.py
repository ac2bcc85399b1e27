"""Opens of the host's sensitive files that no probe sees, and the marks on the files do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.deeds import BOUNDARY
from tests.kernel.endpoint import Endpoint, assert_balanced, endpoint
from tests.kernel.test_unseen import ROUNDABOUT
from tests.kernel.workload import python

RUNS = 60
READ = "T1003 [Sensitive file read]"
EXCHANGE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
/* Opens a file while another thread, on another processor, waits for its descriptor, keeps a copy
 * and puts /dev/null over it. Exit 0: the content was had; 3: not this time. */
static int wanted, null;
static volatile int go;
static volatile long copy;
static void stay(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  sched_setaffinity(0, sizeof set, &set);
}
static void *exchange(void *none) {
  long from = wanted, to = null, got;
  stay(1);
  go = 1;
  do asm volatile("syscall" : "=a"(got) : "0"((long)SYS_dup), "D"(from) : "rcx", "r11", "memory");
  while (got < 0);
  asm volatile("syscall" : "=a"(copy) : "0"((long)SYS_dup2), "D"(to), "S"(from)
               : "rcx", "r11", "memory");
  copy = got;
  return 0;
}
int main(int argc, char **argv) {
  char text[8];
  pthread_t other;
  null = open("/dev/null", O_RDONLY);
  wanted = dup(null);
  close(wanted);
  stay(0);
  pthread_create(&other, 0, exchange, 0);
  while (!go) {}
  usleep(2000);
  open(argv[1], O_RDONLY);
  pthread_join(other, 0);
  return pread(copy, text, 7, 0) > 0 ? 0 : 3;
}
"""
"""The descriptor is exchanged between its installation and the call's end."""


class Place:
    """A folder of sensitive files, made before the agent starts."""

    def __init__(self, folder: Path) -> None:
        self.ssh = folder / "home" / ".ssh"
        self.ssh.mkdir(parents=True)
        self.key = self.ssh / "id_rsa"
        self.control = self.ssh / "id_ed25519"
        for path in (self.key, self.control, self.ssh / "config"):
            path.write_text("secret\n")
            path.chmod(0o600)

    @property
    def listed(self) -> str:
        return json.dumps([str(self.key), str(self.control)])


@pytest.fixture(scope="module")
def place(programs: Path) -> Iterator[Place]:
    made = Place(programs / "witness")
    yield made
    shutil.rmtree(programs / "witness")


def test_an_overflow_of_the_queue_is_counted(place: Place) -> None:
    """Notices of one file by one process under many names are all different.

    First in this file, for it has an agent of its own.
    """
    code = """if True:
        import os, sys
        for number in range(20_000):
            name = f"{sys.argv[1]}.{number}"
            os.link(sys.argv[1], name)
            os.close(os.open(name, os.O_RDONLY))
            os.unlink(name)
    """
    with endpoint(
        LAVENDER_FILTERS__SENSITIVE_FILES=place.listed,
        LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS="0.2",
    ) as running:
        os.kill(running.pid, signal.SIGSTOP)
        try:
            pid, exit_code = python(code, str(place.key))
        finally:
            os.kill(running.pid, signal.SIGCONT)
        assert exit_code == 0
        running.alert(READ, pid)
        running.wait_for(lambda: running.statuses[-1]["probes"]["witness"]["lost"])
        assert running.stop() == 0
        assert_balanced(running.stopped()["probes"])


@pytest.fixture(scope="module")
def agent(place: Place, programs: Path) -> Iterator[Endpoint]:
    with endpoint(
        record=programs / "witness" / "events",
        LAVENDER_FILTERS__SENSITIVE_FILES=place.listed,
        LAVENDER_FILTERS__SAFE_FILE_READERS='["dd"]',
    ) as running:
        yield running
        assert running.stop() == 0
        stopped = running.stopped()
        assert stopped["lost_in_kernel"] == 0
        assert_balanced(stopped["probes"])


@pytest.fixture(scope="module")
def roundabout(build: Callable[[str], Path]) -> Path:
    return build(ROUNDABOUT)


@pytest.fixture(scope="module")
def exchange(build: Callable[[str], Path]) -> Path:
    return build(EXCHANGE)


def apart(*words: str | Path, cwd: Path | None = None) -> tuple[int, int]:
    """Run a program to its end in a lineage of its own: pid and exit code."""
    script = 'echo $$ && exec "$@" > /dev/null'
    ended = subprocess.run(
        [*BOUNDARY, "/bin/sh", "-c", script, "sh", *words],
        check=False,
        cwd=cwd,
        stdout=subprocess.PIPE,
        timeout=30,
    )
    return int(ended.stdout), ended.returncode


def opens(*words: str | Path, cwd: Path | None = None) -> int:
    """Have a program open a file, in a lineage of its own; its pid."""
    pid, code = apart(*words, cwd=cwd)
    if code in {errno.ENOSYS, errno.EOPNOTSUPP}:
        pytest.skip(f"this kernel or file system cannot do that: {os.strerror(code)}")
    assert code == 0, os.strerror(code)
    return pid


def witnessed(agent: Endpoint, pid: int, path: Path) -> None:
    """The open is an event of the marks, and an alert that says so."""
    event = agent.event(type="open", pid=pid, filename=str(path), witness=True)
    assert event["comm"]
    assert event["start_ns"]
    alert = agent.alert(READ, pid)
    assert str(path) in alert["detail"]
    assert "by no probe" in alert["detail"]


def judged(agent: Endpoint, roundabout: Path, place: Place) -> None:
    """Wait until all opens before this call were decided on, in their order."""
    pid = opens(roundabout, "handle", place.control)
    agent.event(type="open", pid=pid, filename=str(place.control), witness=True)


def test_it_is_read_without_any_capability(agent: Endpoint) -> None:
    status = dict(line.split(":", 1) for line in agent.proc("status").splitlines())
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert int(status["Uid"].split()[0]) != 0


def test_every_file_that_was_had_by_an_exchanged_descriptor_is_told(
    agent: Endpoint, exchange: Path, place: Place
) -> None:
    had = [pid for pid, code in (apart(exchange, place.key) for _ in range(RUNS)) if code == 0]
    assert len(had) > RUNS / 2
    for pid in had:
        agent.event(type="open", pid=pid, filename=str(place.key))
        agent.alert(READ, pid)
    unseen = agent.seen(type="open", witness=True, filename=str(place.key))
    assert {event["pid"] for event in unseen} & set(had), "the probes were never kept from seeing"


@pytest.mark.parametrize("how", ["uring-open", "32-bit-open", "handle"])
def test_an_open_by_another_way_is_told(
    agent: Endpoint, roundabout: Path, place: Place, how: str
) -> None:
    witnessed(agent, opens(roundabout, how, place.key), place.key)


def test_a_hard_link_hides_nothing(agent: Endpoint, place: Place, programs: Path) -> None:
    link = programs / "innocent"
    link.hardlink_to(place.key)
    witnessed(agent, opens("/bin/cat", link), place.key)


def test_becoming_a_safe_reader_afterwards_excuses_nothing(
    agent: Endpoint, place: Place, programs: Path
) -> None:
    link = programs / "becoming"
    link.hardlink_to(place.key)
    code = "import os, sys; os.open(sys.argv[1], 0); os.execv('/usr/bin/dd', ['dd', '--version'])"
    pid, _ = apart(sys.executable, "-S", "-E", "-c", code, link)
    agent.alert(READ, pid)


def test_a_folder_renamed_for_a_moment_hides_nothing(agent: Endpoint, place: Place) -> None:
    away = place.ssh.with_name("away")
    place.ssh.rename(away)
    pid = opens("/bin/cat", away / place.key.name)
    away.rename(place.ssh)
    witnessed(agent, pid, place.key)


@pytest.mark.parametrize("whose", ["-m", "-Urm"])
def test_an_overlay_hides_nothing(
    agent: Endpoint, place: Place, tmp_path: Path, whose: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "shown").mkdir()
    script = 'mount -t overlay overlay -o lowerdir="$1:empty" shown && exec cat shown/id_rsa'
    words = ("unshare", whose, "sh", "-c", script, "sh", str(place.ssh))
    witnessed(agent, opens(*words, cwd=tmp_path), place.key)


def test_what_a_probe_tells_is_told_once(agent: Endpoint, roundabout: Path, place: Place) -> None:
    pid = opens(roundabout, "open", place.key)
    judged(agent, roundabout, place)
    assert [event["witness"] for event in agent.seen(type="open", pid=pid)] == [False]
    assert len(agent.alerts_about(pid=pid)) == 1


def test_other_files_are_not_told(agent: Endpoint, roundabout: Path, place: Place) -> None:
    pids = [opens(roundabout, "handle", place.ssh / "config") for _ in range(3)]
    judged(agent, roundabout, place)
    assert not [pid for pid in pids if agent.seen(type="open", pid=pid)]


def test_an_ordinary_open_by_a_safe_reader_is_silent(
    agent: Endpoint, roundabout: Path, place: Place
) -> None:
    pid, _ = apart("/usr/bin/dd", f"if={place.key}", "of=/dev/null", "status=none")
    judged(agent, roundabout, place)
    assert [event["witness"] for event in agent.seen(type="open", pid=pid)] == [False]
    assert not agent.alerts_about(pid=pid)


def test_a_file_put_in_its_place_is_watched(
    agent: Endpoint, roundabout: Path, place: Place
) -> None:
    new = place.ssh / "new"
    new.write_text("another\n")
    new.chmod(0o600)
    new.rename(place.key)
    witnessed(agent, opens(roundabout, "handle", place.key), place.key)
