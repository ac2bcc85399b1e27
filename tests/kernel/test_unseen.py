"""What Lavender does not see, as docs/SECURITY.md says: tried, so that the document stays true.

A test that fails here is good news: something is seen by now, and the document has to say so.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import python, run

ROUNDABOUT = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif
/* One request through a ring of its own; its result. */
static int through_uring(struct io_uring_sqe wish) {
  struct io_uring_params p = {};
  int ring = syscall(SYS_io_uring_setup, 4, &p);
  if (ring < 0) return -errno;
  char *sq = mmap(0, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
  char *cq = mmap(0, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
                  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
  struct io_uring_sqe *sqes = mmap(0, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
  if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED) return -errno;
  sqes[0] = wish;
  ((unsigned *)(sq + p.sq_off.array))[0] = 0;
  __atomic_store_n((unsigned *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
  if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0) return -errno;
  return ((struct io_uring_cqe *)(cq + p.cq_off.cqes))[0].res;
}
/* A call of the 32-bit table, by its old interrupt; its second argument points to these bytes. */
static int by_32_bits(long number, long first, void *bytes, int size, long third) {
  char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  memcpy(low, bytes, size);
  long ret;
  asm volatile("int $0x80" : "=a"(ret)
               : "a"(number), "b"(first), "c"(low), "d"(third), "S"(0L)
               : "memory", "r8", "r9", "r10", "r11");
  return ret;
}
static int by_handle(char *path) {
  struct file_handle *handle = malloc(sizeof *handle + 128);
  handle->handle_bytes = 128;
  int mount;
  if (name_to_handle_at(AT_FDCWD, path, handle, &mount, 0)) return -errno;
  int root = open("/", O_RDONLY | O_DIRECTORY), fd = open_by_handle_at(root, handle, O_RDONLY);
  return fd < 0 ? -errno : fd;
}
int main(int argc, char **argv) {
  char *how = argv[1];
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int ret = -ENOSYS;
  if (!strcmp(how, "open")) ret = open(argv[2], O_RDONLY);
  if (!strcmp(how, "uring-open"))
    ret = through_uring((struct io_uring_sqe){.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD,
                                              .addr = (unsigned long)argv[2]});
  if (!strcmp(how, "32-bit-open"))
    ret = by_32_bits(295, AT_FDCWD, argv[2], strlen(argv[2]) + 1, O_RDONLY);
  if (!strcmp(how, "handle")) ret = by_handle(argv[2]);
  if (!strcmp(how, "inherited")) { char c; ret = read(atoi(argv[2]), &c, 1); }
  if (!strcmp(how, "renamed")) ret = rename(argv[2], argv[3]) ? -errno : 0;
  if (argc > 2 && strstr("connect uring-connect 32-bit-connect fast-open datagram listen", how)) {
    to.sin_port = htons(atoi(argv[2]));
    int fd = socket(AF_INET, strcmp(how, "datagram") ? SOCK_STREAM : SOCK_DGRAM, 0);
    if (!strcmp(how, "connect")) ret = connect(fd, (void *)&to, sizeof to) ? -errno : 0;
    if (!strcmp(how, "uring-connect"))
      ret = through_uring((struct io_uring_sqe){.opcode = IORING_OP_CONNECT, .fd = fd,
                                                .addr = (unsigned long)&to, .off = sizeof to});
    if (!strcmp(how, "32-bit-connect")) ret = by_32_bits(362, fd, &to, sizeof to, sizeof to);
    if (!strcmp(how, "listen")) ret = by_32_bits(363, fd, &to, sizeof to, 0);
    if (!strcmp(how, "fast-open"))
      ret = sendto(fd, "x", 1, MSG_FASTOPEN, (void *)&to, sizeof to) < 0 ? -errno : 0;
    if (!strcmp(how, "datagram"))
      ret = sendto(fd, "x", 1, 0, (void *)&to, sizeof to) < 0 ? -errno : 0;
  }
  return ret < 0 ? -ret : 0;
}
"""


@pytest.fixture(scope="module")
def roundabout(build: Callable[[str], Path]) -> Path:
    return build(ROUNDABOUT)


@contextmanager
def server(kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[int]:
    """Something on a port of loopback."""
    with socket.socket(socket.AF_INET, kind) as listening:
        listening.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            listening.listen()
        yield listening.getsockname()[1]


def done(*words: str | Path, **options: object) -> int:
    """Do it; the pid. It has worked."""
    pid, code = run(*words, **options)
    if code in (errno.ENOSYS, errno.EOPNOTSUPP):
        pytest.skip(f"this kernel or file system cannot do that: {os.strerror(code)}")
    assert code == 0, os.strerror(code)
    return pid


def opened(watched: Endpoint, pid: int, path: Path) -> bool:
    watched.settle()
    return bool(watched.seen(type="open", pid=pid, filename=str(path)))


def test_the_plain_call_is_seen(watched: Endpoint, roundabout: Path, secret: Path) -> None:
    assert opened(watched, done(roundabout, "open", secret), secret)


@pytest.mark.parametrize("how", ["uring-open", "32-bit-open", "handle"])
def test_an_open_by_another_way_of_a_file_without_a_mark_is_not_seen(
    watched: Endpoint, roundabout: Path, secret: Path, how: str
) -> None:
    pid = done(roundabout, how, secret)
    assert not opened(watched, pid, secret)
    assert watched.seen(type="exec", pid=pid), "but the program is"


def test_a_read_of_an_inherited_descriptor_is_not_seen(
    watched: Endpoint, roundabout: Path, secret: Path
) -> None:
    with secret.open() as file:
        pid = done(roundabout, "inherited", str(file.fileno()), pass_fds=(file.fileno(),))
    assert not opened(watched, pid, secret)


def test_a_rename_into_place_is_not_seen(
    watched: Endpoint, roundabout: Path, secret: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("a key")
    target = secret.with_name("authorized_keys")
    assert not opened(watched, done(roundabout, "renamed", tmp_path / "mine", target), target)
    assert target.read_text() == "a key"


def test_the_plain_connection_is_seen(watched: Endpoint, roundabout: Path) -> None:
    with server() as port:
        pid = done(roundabout, "connect", str(port))
    assert watched.event(type="connect", pid=pid, dest_port=port)


@pytest.mark.parametrize("how", ["uring-connect", "32-bit-connect", "fast-open"])
def test_a_connection_by_another_way_is_seen(watched: Endpoint, roundabout: Path, how: str) -> None:
    with server() as port:
        pid = done(roundabout, how, str(port))
    event = watched.event(type="connect", pid=pid, dest_port=port)
    assert (event["dest_ip"], event["error"]) == ("127.0.0.1", 0)
    assert event["socket"]
    watched.settle()
    assert len(watched.seen(type="connect", pid=pid)) == 1


def test_a_datagram_without_a_connection_is_not_seen(watched: Endpoint, roundabout: Path) -> None:
    with server(socket.SOCK_DGRAM) as port:
        pid = done(roundabout, "datagram", str(port))
    watched.settle()
    assert not watched.seen(type="connect", pid=pid)


def test_an_accepted_connection_is_not_an_event(watched: Endpoint) -> None:
    serve = (
        "import os, socket; s = socket.create_server(('127.0.0.1', 0)); pid = os.fork();"
        "c = socket.create_connection(s.getsockname()) if pid == 0 else s.accept()[0];"
        "pid or os._exit(0); os.waitpid(pid, 0)"
    )
    pid, code = python(serve)
    assert code == 0
    watched.settle()
    assert not watched.seen(type="connect", pid=pid)
