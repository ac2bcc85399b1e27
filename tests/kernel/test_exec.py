"""Executions: what the agent says of a program that was started, and of one that was not."""

from __future__ import annotations

import errno
import os
import pty
import pwd
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import NOBODY, copy_as, python, run

UNSET = 4294967295

VFORK = r"""
#include <unistd.h>
#include <sys/wait.h>
int main(void) {
  for (int i = 0; i < 200; i++) {
    pid_t child = CALL();
    if (!child) {
      execl("/bin/true", "never-touched", "literal one", "literal two", (char *)0);
      _exit(1);
    }
    waitpid(child, 0, 0);
  }
}
"""

MEMFD = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv, char **env) {
  struct stat file;
  int from = open("/bin/true", O_RDONLY), to = memfd_create("ghost", MFD_CLOEXEC);
  fstat(from, &file);
  sendfile(to, from, 0, file.st_size);
  char *words[] = {"kworker/0:1", "from memory", 0};
  fexecve(to, words, env);
  return 1;
}
"""

THREAD_EXEC = r"""
#include <pthread.h>
#include <unistd.h>
static void *leave(void *x) { execl("/bin/true", "true", "from a thread", (char *)0); return x; }
int main(void) { pthread_t t; pthread_create(&t, 0, leave, 0); for (;;) pause(); }
"""


def test_everything_about_an_execution_is_exact(watched: Endpoint, tmp_path: Path) -> None:
    pid, code = run("/usr/bin/env", "true", "a b", "", "c", cwd=tmp_path)
    assert code == 0
    second = watched.event(type="exec", pid=pid, exe="/usr/bin/true")
    first = watched.event(type="exec", pid=pid, exe="/usr/bin/env")
    assert first["filename"] == "/usr/bin/env"
    assert first["argv"] == ["/usr/bin/env", "true", "a b", "", "c"]
    assert second["argv"] == ["true", "a b", "", "c"]
    for event in (first, second):
        assert event["cwd"] == str(tmp_path)
        assert event["uid"] == 0
        assert event["user"] == "root"
        assert event["ppid"] == os.getpid()
        assert event["login_uid"] == int(Path("/proc/self/loginuid").read_text())
        assert event["error"] == 0
        assert event["argv_cut"] is False
        assert event["system_exe"] is True
        assert event["start_ns"] == first["start_ns"]
    assert second["comm"] == "true"
    assert second["time_ns"] > first["time_ns"] >= first["start_ns"]


def test_the_line_on_standard_output_has_the_promised_keys(watched: Endpoint) -> None:
    pid, _ = run("/usr/bin/true", "x", "y")
    line = watched.printed(type="exec", pid=pid)
    assert line["cmdline"] == "/usr/bin/true x y"
    assert line["user"] == "root"
    assert line["ppid"] == os.getpid()
    assert line["ancestry"].endswith("=>true")
    assert line["timestamp"].endswith("Z")


def test_an_unprivileged_user_is_named(watched: Endpoint) -> None:
    pid, _ = run("/usr/bin/true", user=NOBODY, group=NOBODY, extra_groups=[])
    line = watched.printed(type="exec", pid=pid)
    assert line["uid"] == NOBODY
    assert line["user"] == pwd.getpwuid(NOBODY).pw_name


def test_the_login_uid_is_the_kernels(watched: Endpoint) -> None:
    code = (
        "import os,sys; open('/proc/self/loginuid','w').write('4242'); os.execv('/bin/true',['t'])"
    )
    pid, exited = python(code)
    if exited:
        pytest.skip("this kernel has no audit login uid")
    assert watched.event(type="exec", pid=pid, exe="/usr/bin/true")["login_uid"] == 4242


def test_fexecve_is_an_execution_of_the_file_behind_the_descriptor(watched: Endpoint) -> None:
    pid, code = python(
        "import os; os.execve(os.open('/usr/bin/true', os.O_RDONLY), ['by-fd', 'x'], {})"
    )
    assert code == 0
    event = watched.event(type="exec", pid=pid, exe="/usr/bin/true")
    assert event["argv"] == ["by-fd", "x"]
    assert event["system_exe"] is True


def test_a_script_is_named_with_the_interpreter_that_runs_it(
    watched: Endpoint, tmp_path: Path
) -> None:
    script = tmp_path / "job"
    script.write_text("#!/bin/dash -e\nexit 3\n")
    script.chmod(0o755)
    pid, code = run(script, "arg")
    assert code == 3
    event = watched.event(type="exec", pid=pid)
    assert event["filename"] == str(script)
    assert event["exe"] == "/usr/bin/dash"
    assert event["argv"] == ["/bin/dash", "-e", str(script), "arg"]
    assert event["comm"] == "job"


def test_what_the_standard_descriptors_are_is_told(watched: Endpoint, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    network = socket.socket(socket.AF_INET)
    master, slave = pty.openpty()
    named = os.open(fifo, os.O_RDWR)
    folder = os.open(tmp_path, os.O_RDONLY)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    null, zero = os.open(os.devnull, os.O_RDWR), os.open("/dev/zero", os.O_RDWR)
    given = {
        theirs.fileno(): f"unix:[{os.fstat(theirs.fileno()).st_ino}]",
        network.fileno(): f"socket:[{os.fstat(network.fileno()).st_ino}]",
        reading: f"pipe:[{os.fstat(reading).st_ino}]",
        named: f"fifo:[{fifo.stat().st_ino}]",
        slave: "tty",
        file: "file",
        null: "null",
        zero: "other",
        folder: "other",
    }
    descriptors = list(given)
    try:
        for turn in range(len(descriptors)):
            first, second, third = (descriptors[turn:] + descriptors)[:3]
            pid, _ = run("/usr/bin/true", stdin=first, stdout=second, stderr=third)
            event = watched.event(type="exec", pid=pid, exe="/usr/bin/true")
            assert event["stdio"] == [given[first], given[second], given[third]]
    finally:
        ours.close()
        theirs.close()
        network.close()
        for descriptor in (reading, writing, master, slave, named, folder, file, null, zero):
            os.close(descriptor)


def test_a_closed_standard_descriptor_is_told_and_one_closed_by_the_execution_too(
    watched: Endpoint,
) -> None:
    code = "import os; os.close(0); os.set_inheritable(2, False); os.execv('/bin/true', ['true'])"
    pid, exited = python(code, stdout=subprocess.DEVNULL)
    assert exited == 0
    assert watched.event(type="exec", pid=pid, exe="/usr/bin/true")["stdio"] == ["", "null", ""]


def test_descriptors_in_a_table_that_grew_are_found(watched: Endpoint) -> None:
    code = "import os; os.dup2(0, 200); os.execv('/bin/true', ['true'])"
    words = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    pid, exited = python(code, **words)
    assert exited == 0
    event = watched.event(type="exec", pid=pid, exe="/usr/bin/true")
    assert event["stdio"] == ["null", "null", "null"]


@pytest.mark.parametrize("call", ["execve", "execveat"])
@pytest.mark.parametrize(("failure", "error"), [("missing", errno.ENOENT), ("plain", errno.EACCES)])
def test_a_failed_execution_has_its_errno(
    watched: Endpoint, tmp_path: Path, call: str, failure: str, error: int
) -> None:
    path = tmp_path / failure
    if failure == "plain":
        path.write_text("no program")
    number = {"execve": 59, "execveat": 322}[call]
    words = "p, argv, None" if call == "execve" else "-100, p, argv, None, 0"
    pid, _ = python(
        f"import ctypes as c,sys; p=c.c_char_p(sys.argv[1].encode()); "
        f"argv=(c.c_char_p*2)(b'x',None); c.CDLL(None).syscall({number}, {words})",
        str(path),
    )
    event = watched.event(type="exec", pid=pid, error=error)
    assert event["filename"] == str(path)
    line = watched.printed(type="exec", pid=pid, error=errno.errorcode[error])
    assert line["filename"] == str(path)


@pytest.mark.parametrize("fork", ["fork", "vfork"])
def test_arguments_that_the_child_never_touched_are_read(
    watched: Endpoint, build: Callable[[str], Path], fork: str
) -> None:
    parent, _ = run(build(VFORK.replace("CALL", fork)))
    watched.settle()
    events = watched.seen(type="exec", ppid=parent)
    assert len(events) == 200
    for event in events:
        assert event["argv"] == ["never-touched", "literal one", "literal two"]
        assert event["filename"] == "/bin/true"


def test_relative_paths_and_links_lead_to_the_file_that_runs(
    watched: Endpoint, tmp_path: Path, doer: Path
) -> None:
    real = copy_as(doer, tmp_path / "real", "program")
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "sub").mkdir()
    pid, _ = run("../link", cwd=tmp_path / "sub")
    event = watched.event(type="exec", pid=pid)
    assert event["filename"] == "../link"
    assert event["exe"] == str(real)
    assert event["cwd"] == str(tmp_path / "sub")
    assert event["system_exe"] is False


def test_a_program_in_memory_is_seen_and_not_believed(
    watched: Endpoint, build: Callable[[str], Path]
) -> None:
    pid, code = run(build(MEMFD))
    assert code == 0
    event = watched.event(type="exec", pid=pid, argv=["kworker/0:1", "from memory"])
    assert "memfd:ghost" in event["exe"]
    assert event["system_exe"] is False


def test_an_execution_by_a_thread_is_the_processes(
    watched: Endpoint, build: Callable[[str], Path]
) -> None:
    pid, code = run(build(THREAD_EXEC))
    assert code == 0
    event = watched.event(type="exec", pid=pid, argv=["true", "from a thread"])
    assert event["start_ns"] == watched.event(type="fork", pid=pid)["start_ns"]
    watched.settle()
    assert len(watched.seen(type="exit", pid=pid)) == 1


def test_a_deleted_program_is_named_by_where_it_was(
    watched: Endpoint, tmp_path: Path, doer: Path
) -> None:
    program = copy_as(doer, tmp_path, "shortlived")
    process = subprocess.Popen([program, "sleep", "300", "exec", "/proc/self/exe", "exit", "4"])
    watched.event(type="exec", pid=process.pid)
    program.unlink()
    assert process.wait() == 4
    events = watched.wait_for(
        lambda: (found := watched.seen(type="exec", pid=process.pid))[1:] and found
    )
    assert events[1]["exe"].startswith(str(program))
    assert events[1]["system_exe"] is False


def test_arguments_over_8_kib_are_cut_and_marked(watched: Endpoint) -> None:
    pid, _ = run("/usr/bin/true", "x" * 5000, "y" * 5000)
    event = watched.event(type="exec", pid=pid)
    assert event["argv_cut"] is True
    assert event["argv"][1] == "x" * 5000
    assert set(event["argv"][2]) == {"y"}
    assert sum(len(word) + 1 for word in event["argv"]) in (8192, 8193)


def test_arguments_of_exactly_8_kib_are_whole(watched: Endpoint) -> None:
    first = "/usr/bin/true"
    pid, _ = run(first, "x" * (8192 - len(first) - 2))
    event = watched.event(type="exec", pid=pid)
    assert event["argv_cut"] is False
    assert len(event["argv"][1]) == 8192 - len(first) - 2


@pytest.mark.parametrize(("count", "cut"), [(256, False), (257, True)])
def test_256_arguments_are_whole_and_one_more_is_marked(
    watched: Endpoint, count: int, *, cut: bool
) -> None:
    pid, _ = run("/usr/bin/true", *["a"] * (count - 1))
    event = watched.event(type="exec", pid=pid)
    assert len(event["argv"]) == 256
    assert event["argv_cut"] is cut


def test_a_hundred_thousand_arguments_do_no_harm(watched: Endpoint) -> None:
    pid, code = run("/usr/bin/true", *["b"] * 100_000)
    assert code == 0
    event = watched.event(type="exec", pid=pid)
    assert event["argv_cut"] is True
    assert event["argv"] == ["/usr/bin/true", *["b"] * 255]


def test_a_program_deep_in_the_tree_is_named_in_full(
    watched: Endpoint, tmp_path: Path, doer: Path
) -> None:
    folder = tmp_path
    for number in range(12):
        folder = folder / f"{number:02}-{'d' * 90}"
    program = copy_as(doer, folder, "deep")
    pid, _ = run(program, cwd=folder)
    event = watched.event(type="exec", pid=pid)
    assert event["filename"] == str(program)
    assert event["exe"] == str(program)
    assert event["cwd"] == str(folder)
