"""What the tests make happen: small programs, own network namespaces, other users."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOBODY = 65534
ADDRESS = "10.99.0.1"
"""An address of our own that is not loopback, in an `Island`."""


def compile_c(source: str, folder: Path, *, name: str = "") -> Path:
    """Compile a C program once per folder; the path of the program."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    program = folder / (name or f"program-{digest}")
    if not program.exists():
        subprocess.run(
            ["/usr/bin/gcc", "-O1", "-w", "-pthread", "-o", program, "-x", "c", "-"],
            input=source.encode(),
            check=True,
        )
    return program


def copy_as(program: Path, folder: Path, name: str) -> Path:
    """A copy of a program under another name; each folder is a place of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    shutil.copy(program, target)
    target.chmod(0o755)
    return target


def run(*words: str | bytes | Path, **options: Any) -> tuple[int, int]:
    """Run a program to its end: pid and exit code (negative: the signal)."""
    process = subprocess.Popen([os.fspath(word) for word in words], **options)
    try:
        return process.pid, process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def python(code: str, *words: str, **options: Any) -> tuple[int, int]:
    """Run Python code in a process of its own; only the standard library, quick to start."""
    return run(sys.executable, "-S", "-E", "-c", code, *words, **options)


class Island:
    """A network namespace without a way out, where `ADDRESS` is our own and not loopback."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.enter = ("nsenter", f"--net=/run/netns/{name}")
        """Put before a command, which then runs inside, in the same process."""

    def add(self, address: str) -> None:
        """Make one more address our own."""
        _ip("-n", self.name, "addr", "add", f"{address}/32", "dev", "lo")


@contextmanager
def island() -> Iterator[Island]:
    """Make one and remove it."""
    name = f"lvd-{uuid.uuid4().hex[:8]}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "addr", "add", f"{ADDRESS}/32", "dev", "lo")
        yield Island(name)
    finally:
        _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    ip = shutil.which("ip")
    assert ip is not None, "install iproute2"
    subprocess.run([ip, *words], check=True)


DOER = r"""
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
/* Does what its arguments say, one after the other. */
static void dial(const char *host, int port, int kind) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, host, &to.sin_addr);
  int fd = socket(AF_INET, kind, 0);
  connect(fd, (void *)&to, sizeof to);
  close(fd);
}
int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    char *word = argv[i];
    if (!strcmp(word, "open")) { int fd = open(argv[++i], O_RDONLY); if (fd >= 0) close(fd); }
    else if (!strcmp(word, "write")) { int fd = open(argv[++i], O_WRONLY); if (fd >= 0) close(fd); }
    else if (!strcmp(word, "connect")) { dial(argv[i + 1], atoi(argv[i + 2]), 1); i += 2; }
    else if (!strcmp(word, "udp")) { dial(argv[i + 1], atoi(argv[i + 2]), 2); i += 2; }
    else if (!strcmp(word, "sleep")) { usleep(1000 * atoi(argv[++i])); }
    else if (!strcmp(word, "exit")) { exit(atoi(argv[++i])); }
    else if (!strcmp(word, "hold")) { for (;;) pause(); }
    else if (!strcmp(word, "note")) { i++; }
    else if (!strcmp(word, "exec")) { execv(argv[i + 1], argv + i + 1); exit(127); }
    else if (!strcmp(word, "fork")) { /* the child goes on, the parent waits */
      pid_t child = fork();
      if (child) { int status; waitpid(child, &status, 0); exit(WEXITSTATUS(status)); }
    }
    else if (!strcmp(word, "run")) { /* run PROGRAM ARGS... + */
      int end = ++i;
      while (end < argc && strcmp(argv[end], "+")) end++;
      argv[end] = NULL;
      pid_t child = fork();
      if (!child) { execv(argv[i], argv + i); exit(127); }
      waitpid(child, NULL, 0);
      i = end;
    }
    else { fprintf(stderr, "what is %s?\n", word); exit(99); }
  }
  return 0;
}
"""
"""A program that opens, connects, forks and execs what its arguments say."""

OPENER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static pthread_t liar;
static void *lie(void *wish) {
  for (;;) { ((volatile struct open_how *)wish)->flags = O_WRONLY;
             ((volatile struct open_how *)wish)->flags = O_RDONLY; }
}
int main(int argc, char **argv) {
  char *how = argv[1], *path = argv[2];
  struct open_how wish = {.flags = O_RDONLY};
  if (!strcmp(how, "open")) return syscall(SYS_open, path, O_RDONLY) < 0;
  if (!strcmp(how, "openat")) return syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) < 0;
  if (!strcmp(how, "openat2")) return syscall(SYS_openat2, AT_FDCWD, path, &wish, sizeof wish) < 0;
  if (!strcmp(how, "creat")) return syscall(SYS_creat, path, 0600) < 0;
  if (!strcmp(how, "dirfd")) return openat(open(path, O_PATH), argv[3], O_RDONLY) < 0;
  if (!strcmp(how, "o_path")) return open(path, O_PATH) < 0 || open(path, O_RDONLY) < 0;
  if (!strcmp(how, "liar")) { /* rewrites its wish, in memory the kernel has read already */
    pthread_create(&liar, 0, lie, &wish);
    for (int i = 0; i < 300; i++) { /* prints the mode each file is really open in */
      char name[300];
      snprintf(name, sizeof name, "%s%d", path, i);
      int fd = syscall(SYS_openat2, AT_FDCWD, name, &wish, sizeof wish);
      printf("%d\n", fcntl(fd, F_GETFL) & 3);
      close(fd);
    }
    return 0;
  }
  if (!strcmp(how, "many")) { /* a descriptor table of more than 64 entries */
    for (int i = 0; i < 200; i++) open("/dev/null", O_RDONLY);
    return syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) < 200;
  }
  return 99;
}
"""
"""A program that opens a file in the way its first argument names."""
