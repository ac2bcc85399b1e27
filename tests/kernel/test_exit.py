"""Ends of processes: once each, after the last thread, with what wait(2) reports."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import run

MAIN_LEAVES_FIRST = r"""
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static void *last(void *x) { usleep(150000); exit(7); return x; }
int main(void) { pthread_t t; pthread_create(&t, 0, last, 0); pthread_exit(0); }
"""

ALL_LEAVE_AT_ONCE = r"""
#include <pthread.h>
#include <unistd.h>
#include <sys/wait.h>
static pthread_barrier_t gate;
static void *leave(void *x) { pthread_barrier_wait(&gate); return x; }
static void crowd(void) {
  pthread_t t;
  pthread_barrier_init(&gate, 0, 33);
  for (int i = 0; i < 32; i++) pthread_create(&t, 0, leave, 0);
  pthread_barrier_wait(&gate);
  pthread_exit(0);
}
int main(void) {
  for (int i = 0; i < 40; i++) {
    if (!fork()) crowd();
    wait(0);
  }
}
"""


def one_exit(watched: Endpoint, pid: int) -> tuple[int, int]:
    """The only exit of a process: code and signal."""
    watched.settle()
    (event,) = watched.seen(type="exit", pid=pid)
    assert event["start_ns"] == watched.seen(type="fork", pid=pid)[0]["start_ns"]
    return event["exit_code"], event["signal"]


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_is_what_wait_reports(watched: Endpoint, doer: Path, code: int) -> None:
    pid, waited = run(doer, "exit", str(code))
    assert waited == code
    assert one_exit(watched, pid) == (code, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_the_signal_is_what_wait_reports(
    watched: Endpoint, doer: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen([doer, "hold"], cwd=tmp_path)
    watched.event(type="exec", pid=process.pid)
    process.send_signal(number)
    assert process.wait() == -number
    assert one_exit(watched, process.pid) == (0, number)


def test_a_process_has_ended_only_when_its_last_thread_has(
    watched: Endpoint, build: Callable[[str], Path]
) -> None:
    process = subprocess.Popen([build(MAIN_LEAVES_FIRST)])
    begun = watched.event(type="exec", pid=process.pid)
    assert process.wait() == 7
    assert one_exit(watched, process.pid) == (7, 0)
    ended = watched.event(type="exit", pid=process.pid)
    assert ended["time_ns"] - begun["time_ns"] > 140_000_000


def test_threads_that_leave_at_once_end_their_process_once(
    watched: Endpoint, build: Callable[[str], Path]
) -> None:
    parent, code = run(build(ALL_LEAVE_AT_ONCE))
    assert code == 0
    watched.settle()
    children = [event["pid"] for event in watched.seen(type="fork", ppid=parent)]
    assert len(children) == 40
    for pid in children:
        assert len(watched.seen(type="exit", pid=pid)) == 1


def test_a_process_that_never_execs_ends_too(watched: Endpoint) -> None:
    pid = os.fork()
    if not pid:
        os._exit(9)
    os.waitpid(pid, 0)
    assert one_exit(watched, pid) == (9, 0)
