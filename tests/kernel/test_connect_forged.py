"""Connections whose caller lies: a second thread acts on memory or descriptor while it blocks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.deeds import BOUNDARY
from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import Island, island, python, run

REAL, DECOY = "203.0.113.7", "198.51.100.20"
BUS = "/run/dbus/system_bus_socket"

TRICKSTER = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
/* trickster HOW: the child connects to a listener whose queue is full, so that the call blocks;
 * when it does, a second thread plays the trick and makes room. Prints the child's pid and the
 * result of the call. */
static char *how;
static int family, listener, decoy, fd, kept;
static union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_un un; } real, said, bus;
static socklen_t real_size;
static pthread_t caller;
static pid_t caller_tid;

static struct sockaddr_in ip(const char *host, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, host, &to.sin_addr);
  return to;
}
static int has(const char *file, const char *what) {
  char line[512];
  FILE *f = fopen(file, "r");
  int found = 0;
  while (fgets(line, sizeof line, f)) found |= strstr(line, what) != 0;
  fclose(f);
  return found;
}
static int blocks(void) { /* in connect(2), and for TCP the first packet has been sent */
  char file[64];
  snprintf(file, sizeof file, "/proc/self/task/%d/syscall", caller_tid);
  if (!has(file, "42 0x")) return 0;
  snprintf(file, sizeof file, "/proc/self/task/%d/stat", caller_tid);
  return has(file, ") S ") && (family == AF_UNIX || has("/proc/self/net/tcp", ":115C 02 "));
}
static void nothing(int signal) {}
static void *trick(void *x) {
  while (!blocks()) sched_yield();
  struct sockaddr_in other = ip("198.51.100.20", 443);
  if (!strcmp(how, "rewrite")) said = bus;
  if (!strcmp(how, "exchange")) dup2(decoy, fd);
  if (!strcmp(how, "close")) { close(fd); said.in = other; }
  if (!strcmp(how, "signal")) { pthread_kill(caller, SIGUSR1); said.in = other; dup2(decoy, fd); }
  for (int i = 0; i < 2; i++) accept(listener, 0, 0);
  return 0;
}
int main(int argc, char **argv) {
  how = argv[1];
  family = argc > 2 ? AF_UNIX : AF_INET;
  real.in = ip("203.0.113.7", 4444);
  real_size = sizeof real.in;
  if (family == AF_UNIX) {
    real.un = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(real.un.sun_path, argv[2]);
    real_size = sizeof real.un;
  }
  said = real;
  bus.un = (struct sockaddr_un){.sun_family = AF_UNIX, .sun_path = "/run/dbus/system_bus_socket"};
  listener = socket(family, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
  if (bind(listener, &real.any, real_size) || listen(listener, 0)) return 1;
  int filler = socket(family, SOCK_STREAM, 0);
  if (connect(filler, &real.any, real_size)) return 2;
  struct sockaddr_in other = ip("198.51.100.20", 443);
  decoy = socket(AF_INET, SOCK_DGRAM, 0);
  connect(decoy, (void *)&other, sizeof other);
  pid_t child = fork();
  if (child) { int status; waitpid(child, &status, 0); return WEXITSTATUS(status); }
  caller = pthread_self();
  caller_tid = getpid();
  sigaction(SIGUSR1, &(struct sigaction){.sa_handler = nothing, .sa_flags = SA_RESTART}, 0);
  pthread_t second;
  fd = socket(family, SOCK_STREAM, 0);
  kept = dup(fd);
  if (!strcmp(how, "close")) close(kept);
  pthread_create(&second, 0, trick, 0);
  int result = connect(fd, &said.any, sizeof said.un);
  pthread_join(second, 0);
  printf("%d %d\n", getpid(), result ? errno : 0);
  return 0;
}
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Island]:
    """Where both addresses are our own, and count as other machines."""
    with island() as made:
        made.add(REAL)
        made.add(DECOY)
        yield made


@pytest.fixture
def play(place: Island, build: Callable[[str], Path], tmp_path: Path) -> Callable[..., int]:
    """Play a trick; the pid of the process that did, whose connection was made."""

    def play(*words: str) -> int:
        said = tmp_path / "said"
        with said.open("w") as output:
            _, code = run(*BOUNDARY, *place.enter, build(TRICKSTER), *words, stdout=output)
        assert code == 0
        pid, error = map(int, said.read_text().split())
        assert error == 0
        return pid

    return play


@pytest.mark.parametrize(
    ("how", "claimed"),
    [
        ("plain", ""),
        ("rewrite", f"unix:{BUS}"),
        ("exchange", f"{DECOY}:443"),
        ("close", f"{DECOY}:443"),
    ],
)
def test_a_connection_is_told_by_where_it_leads(
    watched: Endpoint, play: Callable[..., int], how: str, claimed: str
) -> None:
    pid = play(how)
    event = watched.event(type="connect", pid=pid)
    assert (event["dest_ip"], event["dest_port"], event["error"]) == (REAL, 4444, 0)
    assert event.get("claimed", "") == claimed
    rules = watched.rules_of(pid)
    assert "T1071 [Connection to suspicious port]" in rules
    assert ("T1036 [Forged connection address]" in rules) == bool(claimed)
    assert len(watched.seen(type="connect", pid=pid)) == 1


def test_a_connection_that_a_signal_interrupts_is_told_before_the_trick(
    watched: Endpoint, play: Callable[..., int]
) -> None:
    pid = play("signal")
    first = watched.event(type="connect", pid=pid)
    assert (first["dest_ip"], first["dest_port"], first["error"]) == (REAL, 4444, 0)
    assert "T1071 [Connection to suspicious port]" in watched.rules_of(pid)


def test_a_unix_connection_is_told_by_its_other_end(
    watched: Endpoint, play: Callable[..., int], tmp_path: Path
) -> None:
    path = str(tmp_path / "real")
    pid = play("rewrite", path)
    event = watched.event(type="connect", pid=pid)
    assert (event["path"], event["claimed"]) == (path, f"unix:{BUS}")
    assert "T1036 [Forged connection address]" in watched.rules_of(pid)


UNTOUCHED = (
    "import ctypes, mmap, socket, struct, sys;"
    " port, page = int(sys.argv[1]), open(sys.argv[2], 'w+b');"
    " page.write(struct.pack('=H', 2) + struct.pack('>H', port) + bytes(4092)); page.flush();"
    " memory = mmap.mmap(page.fileno(), 4096); s = socket.socket();"
    " place = ctypes.c_char.from_buffer(memory);"
    " sys.exit(ctypes.CDLL(None).connect(s.fileno(), ctypes.byref(place), 16))"
)


def test_an_address_that_the_kernel_fills_in_is_no_forgery(
    watched: Endpoint, tmp_path: Path
) -> None:
    # 0.0.0.0 is 127.0.0.1 to the kernel; and the page that says so is read by nobody before it.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        pid, code = python(UNTOUCHED, str(port), str(tmp_path / "page"))
    assert code == 0
    event = watched.event(type="connect", pid=pid)
    assert (event["dest_ip"], event["dest_port"], event["claimed"]) == ("127.0.0.1", port, "")
