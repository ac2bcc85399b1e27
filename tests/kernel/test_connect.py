"""Connections: where to, whether they worked, and that nobody can lie about it."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import Island, python, run

CLIENT = (
    "import socket,sys; family,kind,blocking,host,port=sys.argv[1:]; "
    "s=socket.socket(getattr(socket,family),getattr(socket,kind)); "
    "s.setblocking(blocking=='yes'); s.connect_ex((host,int(port)))"
)

LIAR = r"""
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* While one thread connects, another rewrites the address the call was given. */
static struct sockaddr_in shared;
static in_addr_t truth, lie;
static volatile int over;
static void *rewrite(void *x) {
  while (!over) { shared.sin_addr.s_addr = lie; shared.sin_addr.s_addr = truth; }
  return x;
}
int main(int argc, char **argv) {
  pthread_t t;
  int reached[2] = {0, 0};
  truth = inet_addr("127.0.0.1");
  lie = inet_addr("127.0.0.2");
  shared.sin_family = AF_INET;
  shared.sin_port = htons(atoi(argv[1]));
  pthread_create(&t, 0, rewrite, 0);
  for (int i = 0; i < 300; i++) {
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    if (connect(fd, (void *)&shared, sizeof shared) == 0 && !getpeername(fd, (void *)&peer, &size))
      reached[peer.sin_addr.s_addr == lie]++;
    close(fd);
  }
  over = 1;
  pthread_join(t, 0);
  printf("%d %d\n", reached[0], reached[1]);
}
"""


@contextmanager
def listening(family: int, address: str, kind: int = socket.SOCK_STREAM) -> Iterator[int]:
    """A server that takes what comes; its port."""
    with socket.socket(family, kind) as server:
        server.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            server.listen(64)
        yield server.getsockname()[1]


def closed_port() -> int:
    """A port of loopback where nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.parametrize("blocking", ["yes", "no"])
@pytest.mark.parametrize(
    ("server", "address", "seen"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "0:0:0::1", "::1"),
        ("::", "::ffff:127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
def test_a_connection_has_its_destination(
    watched: Endpoint, server: str, address: str, seen: str, blocking: str
) -> None:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with listening(family, server) as port:
        pid, _ = python(CLIENT, family.name, "SOCK_STREAM", blocking, address, str(port))
    line = watched.printed(type="conn", pid=pid)
    assert line["dest_ip"] == seen
    assert line["dest_port"] == port
    assert line["af"] == family
    assert line["user"] == "root"
    assert line["comm"].startswith("python")
    assert "error" not in line
    assert watched.event(type="connect", pid=pid)["error"] == 0


def test_a_refused_connection_has_its_errno(watched: Endpoint) -> None:
    port = closed_port()
    pid, _ = python(CLIENT, "AF_INET", "SOCK_STREAM", "yes", "127.0.0.1", str(port))
    line = watched.printed(type="conn", pid=pid)
    assert line["error"] == "ECONNREFUSED"
    assert (line["dest_ip"], line["dest_port"]) == ("127.0.0.1", port)


def test_an_unreachable_destination_has_its_errno(
    watched: Endpoint, net: Island, doer: Path
) -> None:
    pid, _ = run(*net.enter, doer, "connect", "198.51.100.7", "80")
    event = watched.event(type="connect", pid=pid)
    assert event["dest_ip"] == "198.51.100.7"
    assert event["error"] == errno.ENETUNREACH


def test_a_connected_udp_socket_is_a_connection(watched: Endpoint) -> None:
    with listening(socket.AF_INET, "127.0.0.1", socket.SOCK_DGRAM) as port:
        pid, _ = python(CLIENT, "AF_INET", "SOCK_DGRAM", "yes", "127.0.0.1", str(port))
    event = watched.event(type="connect", pid=pid)
    assert (event["dest_ip"], event["dest_port"], event["error"]) == ("127.0.0.1", port, 0)


def test_a_unix_socket_has_its_path(watched: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        pid, _ = python(f"import socket; socket.socket(1).connect({str(path)!r})")
    line = watched.printed(type="conn", pid=pid)
    assert line["path"] == str(path)
    assert line["af"] == socket.AF_UNIX
    assert (line["dest_ip"], line["dest_port"]) == ("", 0)


def test_an_abstract_unix_socket_has_its_name(watched: Endpoint, tmp_path: Path) -> None:
    name = f"lavender{tmp_path.name}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        pid, _ = python(f"import socket; socket.socket(1).connect({chr(0) + name!r})")
    assert watched.printed(type="conn", pid=pid)["path"] == f"@{name}"


def test_a_unix_socket_that_is_not_there_has_its_errno(watched: Endpoint, tmp_path: Path) -> None:
    path = tmp_path / ("n" * 60)
    pid, _ = python(f"import socket; socket.socket(1).connect_ex({str(path)[-100:]!r})")
    line = watched.printed(type="conn", pid=pid)
    assert line["error"] == "ENOENT"
    assert line["path"] == str(path)[-100:]


def test_an_address_rewritten_meanwhile_does_not_change_what_is_said(
    watched: Endpoint, build: Callable[[str], Path], tmp_path: Path
) -> None:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))  # noqa: S104 - 127.0.0.1 and 127.0.0.2 at one port
        server.listen(512)
        threading.Thread(target=_take, args=(server,), daemon=True).start()
        port = server.getsockname()[1]
        with (tmp_path / "counts").open("w") as counts:
            pid, code = run(build(LIAR), str(port), stdout=counts)
        server.shutdown(socket.SHUT_RDWR)
    assert code == 0
    truth, lie = map(int, (tmp_path / "counts").read_text().split())
    watched.settle()
    events = [e for e in watched.seen(type="connect", pid=pid) if not e["error"]]
    told = [event["dest_ip"] for event in events]
    assert (told.count("127.0.0.1"), told.count("127.0.0.2")) == (truth, lie)
    assert truth + lie == 300


def _take(server: socket.socket) -> None:
    try:
        while True:
            server.accept()[0].close()
    except OSError:
        return


def test_families_that_are_no_address_are_left_out(watched: Endpoint) -> None:
    # AF_UNSPEC dissolves a UDP association; there is no destination to tell of.
    code = (
        "import ctypes,socket; s=socket.socket(2,socket.SOCK_DGRAM); "
        "ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16)"
    )
    pid, _ = python(code)
    watched.settle()
    assert watched.seen(type="exec", pid=pid)
    assert not watched.seen(type="connect", pid=pid)
