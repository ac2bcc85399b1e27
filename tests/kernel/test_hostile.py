"""Processes that try to confuse whoever watches them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import NOBODY, copy_as, run

READ = "T1003 [Sensitive file read]"
ESCAPES = b'\x1b[2J\x1b]0;owned\x07\r\n{"type":"alert"}\x9b31m\xff\xfe\xe2\x80\xae\x00'[:-1]

REUSE = r"""
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
/* Two processes with one pid, one after the other; each runs a program of its own. */
static pid_t spawn(pid_t wish, char **argv) {
  struct clone_args args = {.exit_signal = SIGCHLD};
  pid_t child;
  args.set_tid = wish ? (uint64_t)(uintptr_t)&wish : 0;
  args.set_tid_size = wish ? 1 : 0;
  child = syscall(SYS_clone3, &args, sizeof args);
  if (!child) { execv(argv[0], argv); _exit(127); }
  if (child > 0) waitpid(child, 0, 0);
  return child;
}
int main(int argc, char **argv) {
  char *first[] = {argv[1], "open", argv[3], 0}, *second[] = {argv[2], "open", argv[3], 0};
  pid_t pid = spawn(0, first);
  usleep(30000);
  if (pid < 0 || spawn(pid, second) != pid) return 1;
  printf("%d\n", pid);
  return 0;
}
"""

IMITATE = r"""
#include <sys/prctl.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
int main(int argc, char **argv) {
  prctl(PR_SET_NAME, "systemd");
  memset(argv[0], 0, strlen(argv[0]));
  open(argv[1], O_RDONLY);
  return 0;
}
"""


def test_hostile_arguments_make_one_valid_line_each(watched: Endpoint, tmp_path: Path) -> None:
    pid, _ = run(b"/usr/bin/true", ESCAPES, b"\n\n", b"", b"\xff" * 300)
    line = watched.printed(type="exec", pid=pid)
    assert '\x1b[2J\x1b]0;owned\x07\r\n{"type":"alert"}' in line["cmdline"]
    assert "\\xff\\xfe" in line["cmdline"]
    watched.settle()
    raw = [raw for raw in watched.stdout_lines if f'"pid":{pid},'.encode() in raw]
    assert len(raw) == 1
    assert not re.search(rb"[\x00-\x1f\x7f]", raw[0].rstrip(b"\n"))
    raw[0].decode("utf-8")
    assert not watched.malformed


def test_hostile_program_names_make_valid_lines(
    watched: Endpoint, tmp_path: Path, doer: Path
) -> None:
    name = b"a\n=>init\x1b[31m\xff"
    folder = copy_as(doer, tmp_path, "plain").parent
    target = str(folder).encode() + b"/" + name
    (folder / "plain").rename(target.decode("utf-8", "surrogateescape"))
    pid, code = run(target, "run", "/usr/bin/true", str(tmp_path), "+")
    assert code == 0
    line = watched.printed(type="exec", cmdline=f"/usr/bin/true {tmp_path}")
    assert watched.event(type="exec", pid=pid)["exe"].endswith("/a\n=>init\x1b[31m\\xff")
    # The arrow in a name cannot add an ancestor, and no control character gets into a lineage.
    assert line["ancestry"].count("=>init") <= 1
    assert "\n" not in line["ancestry"]
    assert "\x1b" not in line["ancestry"]


def test_a_hostile_working_directory_is_text(watched: Endpoint, tmp_path: Path) -> None:
    folder = tmp_path / "new\nline\x1b[2J"
    folder.mkdir()
    pid, _ = run("/usr/bin/true", cwd=folder)
    assert watched.event(type="exec", pid=pid)["cwd"] == str(folder)
    assert not watched.malformed


def test_alert_details_are_printable(watched: Endpoint, tmp_path: Path, doer: Path) -> None:
    folder = tmp_path / "x\x1b[2J\n" / ".ssh"
    folder.mkdir(parents=True)
    (folder / "id_rsa").touch()
    pid, _ = run(doer, "open", folder / "id_rsa")
    detail = watched.alert(READ, pid)["detail"]
    assert detail.isprintable()
    assert "\\x1b[2J\\n" in detail


def test_imitating_a_protected_name_gains_nothing(
    watched: Endpoint, build: Callable[[str], Path], tmp_path: Path
) -> None:
    secret = tmp_path / ".ssh" / "id_rsa"
    secret.parent.mkdir()
    secret.touch()
    program = build(IMITATE)
    pid, _ = run(program, secret)
    alert = watched.alert(READ, pid)
    assert alert["comm"] == "systemd"
    assert alert["exe"] == str(program)
    assert alert["ancestry"].endswith(f"=>{program.name}")


def test_a_process_gone_before_it_is_looked_at_is_known_in_full(watched: Endpoint) -> None:
    # 100 programs that end at once: everything comes from the kernel, nothing from /proc.
    children = [subprocess.Popen(["/usr/bin/true", f"gone-{number}"]) for number in range(100)]
    for child in children:
        child.wait()
    watched.settle()
    for number, child in enumerate(children):
        (event,) = watched.seen(type="exec", pid=child.pid, filename="/usr/bin/true")
        assert event["argv"] == ["/usr/bin/true", f"gone-{number}"]
        assert event["exe"] == "/usr/bin/true"


def test_a_reused_pid_is_another_process(
    watched: Endpoint, build: Callable[[str], Path], tmp_path: Path, doer: Path
) -> None:
    secret = tmp_path / ".ssh" / "id_rsa"
    secret.parent.mkdir()
    secret.touch()
    first, second = (copy_as(doer, tmp_path, name) for name in ("firstone", "secondone"))
    with (tmp_path / "pid").open("w") as output:
        _, code = run(build(REUSE), first, second, secret, stdout=output)
    assert code == 0
    pid = int((tmp_path / "pid").read_text())
    watched.settle()
    alerts = watched.alerts_about(rule=READ, pid=pid)
    assert [alert["exe"] for alert in alerts] == [str(first), str(second)]
    assert alerts[0]["start_ns"] < alerts[1]["start_ns"]
    assert alerts[1]["ancestry"].endswith("=>secondone")
    assert len(watched.seen(type="exit", pid=pid)) == 2


def test_arguments_rewritten_afterwards_change_nothing(watched: Endpoint) -> None:
    process = subprocess.Popen(["/bin/bash", "-c", "exec -a innocent sleep 0.2"])
    process.wait()
    event = watched.event(type="exec", pid=process.pid, exe="/usr/bin/sleep")
    assert event["argv"] == ["innocent", "0.2"]
    assert event["filename"] == "/usr/bin/sleep"


def test_a_program_from_a_user_namespace_is_not_the_systems(watched: Endpoint) -> None:
    pid, code = run(
        *("unshare", "--user", "--mount", "--map-root-user", "/usr/bin/true"),
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    if code:
        return  # user namespaces are switched off here
    event = watched.event(type="exec", pid=pid, exe="/usr/bin/true")
    assert event["system_exe"] is False
    assert watched.event(type="exec", pid=pid, exe="/usr/bin/unshare")["system_exe"] is True
