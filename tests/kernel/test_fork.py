"""Lineage: who started whom, also for processes that never exec or lose their parent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import copy_as, run

CLONE_PARENT = r"""
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
  pid_t middle = fork();
  if (!middle) {
    long sibling = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    if (!sibling) { execl("/bin/true", "sibling", (char *)0); }
    _exit(0);
  }
  while (wait(0) > 0) {}
}
"""

THREAD_FORKS = r"""
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
static void *start(void *x) {
  if (!fork()) { execl("/bin/true", "by-a-thread", (char *)0); _exit(1); }
  wait(0);
  return x;
}
int main(void) { pthread_t t; pthread_create(&t, 0, start, 0); pthread_join(t, 0); }
"""


def test_a_fork_names_child_and_parent(watched: Endpoint) -> None:
    pid, _ = run("/usr/bin/true")
    event = watched.event(type="fork", pid=pid)
    assert event["ppid"] == os.getpid()
    assert 0 < event["parent_start_ns"] < event["start_ns"]


def test_processes_that_never_exec_stay_in_the_lineage(
    watched: Endpoint, tmp_path: Path, doer: Path
) -> None:
    first = copy_as(doer, tmp_path, "grandmother")
    run(first, "fork", "fork", "exec", "/usr/bin/true", "lineage", str(tmp_path))
    line = watched.printed(cmdline=f"/usr/bin/true lineage {tmp_path}")
    assert line["ancestry"].endswith("=>grandmother=>grandmother=>true")


def test_an_orphan_keeps_the_lineage_it_was_born_with(
    watched: Endpoint, tmp_path: Path, doer: Path
) -> None:
    parent = copy_as(doer, tmp_path, "lostparent")
    script = f'{parent} run /bin/sh -c "{doer} sleep 400 exec /usr/bin/true {tmp_path} & " +'
    subprocess.run(["/bin/sh", "-c", f"{script}; exit 0"], check=True)
    line = watched.printed(cmdline=f"/usr/bin/true {tmp_path}")
    assert "=>lostparent=>dash=>" in line["ancestry"]
    assert line["ppid"] != os.getpid()


def test_a_sibling_made_with_clone_parent_belongs_to_the_parent(
    watched: Endpoint, build: Callable[[str], Path]
) -> None:
    top, _ = run(build(CLONE_PARENT))
    event = watched.event(type="exec", ppid=top, argv=["sibling"])
    assert watched.event(type="fork", pid=event["pid"])["ppid"] == top


def test_threads_are_no_processes(watched: Endpoint, build: Callable[[str], Path]) -> None:
    parent, _ = run(build(THREAD_FORKS))
    watched.settle()
    (child,) = watched.seen(type="fork", ppid=parent)
    assert watched.event(type="exec", pid=child["pid"])["argv"] == ["by-a-thread"]


def test_processes_older_than_the_agent_are_known(watched: Endpoint) -> None:
    pid, _ = run("/usr/bin/true")
    ancestry = watched.printed(type="exec", pid=pid)["ancestry"]
    assert ancestry.endswith(f"=>{Path('/proc/self/exe').readlink().name}=>true")
    assert "?" not in ancestry
