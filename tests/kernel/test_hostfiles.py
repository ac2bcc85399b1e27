"""Whose file it is: what mounts make of names, and which names are believed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.agent.hostfiles import HostFiles
from actors.agent.seeds import read_seeds
from tests.kernel.endpoint import Endpoint
from tests.kernel.workload import NOBODY, run

STILL = r"""
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) { if (argc > 1) sleep(atoi(argv[1])); return 0; }
"""

STAGE = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
BIND, REMOUNT, READ_ONLY, PRIVATE = 4096, 32, 1, 1 << 18 | 16384
def mount(source, target, kind=b"none", flags=BIND):
    if libc.mount(source.encode(), target.encode(), kind, flags, None):
        sys.exit(f"{source} on {target}: {os.strerror(ctypes.get_errno())}")
def unshare(flags):
    if libc.unshare(flags):
        sys.exit(os.strerror(ctypes.get_errno()))
how, *words = sys.argv[1:]
if how == "user":
    unshare(0x10020000)
elif how != "plain":
    unshare(0x20000)
    mount("none", "/", flags=PRIVATE)
if how in ("bind", "user"):
    source, target, *words = words
    mount(source, target)
if how == "root":
    folder, *words = words
    mount(folder, folder)
    os.chdir(folder)
    if libc.syscall(155, b".", b"."):
        sys.exit(os.strerror(ctypes.get_errno()))
    libc.umount2(b".", 2)
    os.chdir("/")
if how == "service":  # as systemd makes them with PrivateTmp and ProtectSystem
    mount("tmpfs", "/tmp", b"tmpfs", 0)
    mount("/usr", "/usr")
    mount("none", "/usr", flags=BIND | REMOUNT | READ_ONLY)
os.execv(words[0], words)
"""
"""Makes a mount namespace as its first argument says, and executes the last ones in it."""


@pytest.fixture
def still(tmp_path: Path) -> Path:
    """A program of root's that needs no other file; it does nothing for so many seconds."""
    program = tmp_path / "still"
    words = ["/usr/bin/gcc", "-static", "-O1", "-o", str(program), "-x", "c", "-"]
    subprocess.run(words, input=STILL.encode(), check=True)
    return program


@pytest.fixture
def container(still: Path, tmp_path: Path) -> Path:
    """The root of a container, a folder of the host."""
    program = tmp_path / "root" / "usr" / "sbin" / "sshd"
    program.parent.mkdir(parents=True)
    shutil.copy(still, program)
    return tmp_path / "root"


@pytest.fixture
def volume(still: Path, tmp_path: Path) -> Path:
    """A folder of the host that a container is given, with a program of root's."""
    program = tmp_path / "volume" / "sshd"
    program.parent.mkdir()
    shutil.copy(still, program)
    return program.parent


def staged(*words: str | Path) -> list[str]:
    return ["/usr/bin/python3", "-S", "-E", "-c", STAGE, *map(str, words)]


def ran(watched: Endpoint, *words: str | Path) -> tuple[str, bool]:
    """Run it so; the program's path and whether it counts as the system's."""
    pid, code = run(*staged(*words))
    assert code == 0
    watched.settle()
    event = watched.seen(type="exec", pid=pid)[-1]
    return event["exe"], event["system_exe"]


@contextmanager
def running(*words: str | Path, name: str, **options: object) -> Iterator[tuple[str, bool]]:
    """The same of a process that runs when the agent starts."""
    process = subprocess.Popen(staged(*words), stdout=subprocess.PIPE, **options)  # type: ignore[call-overload] # whatever they are
    try:
        comm = Path(f"/proc/{process.pid}/comm")
        while comm.read_text().strip() != name:
            assert process.poll() is None
        (seed,) = (each for each in read_seeds(HostFiles()) if each.pid == process.pid)
        yield seed.exe, seed.system_exe
    finally:
        process.kill()
        process.communicate()


def test_the_hosts_own_file_is_the_systems(watched: Endpoint) -> None:
    assert ran(watched, "plain", "/usr/bin/true") == ("/usr/bin/true", True)
    with running("plain", "/usr/bin/sleep", "60", name="sleep") as found:
        assert found == ("/usr/bin/sleep", True)


def test_a_service_in_a_mount_namespace_of_its_own_runs_the_systems_files(
    watched: Endpoint,
) -> None:
    assert ran(watched, "service", "/usr/bin/true") == ("/usr/bin/true", True)
    with running("service", "/usr/bin/sleep", "60", name="sleep") as found:
        assert found == ("/usr/bin/sleep", True)


def test_a_folder_of_the_host_as_root_holds_no_file_of_the_system(
    watched: Endpoint, container: Path
) -> None:
    assert ran(watched, "root", container, "/usr/sbin/sshd") == ("/usr/sbin/sshd", False)
    with running("root", container, "/usr/sbin/sshd", "60", name="sshd") as found:
        assert found == ("/usr/sbin/sshd", False)


def test_a_folder_of_the_host_that_is_mounted_over_a_system_folder_is_none(
    watched: Endpoint, volume: Path
) -> None:
    place = "/usr/local/games"
    words = ("bind", volume, place, f"{place}/sshd")
    assert ran(watched, *words) == (f"{place}/sshd", False)
    with running(*words, "60", name="sshd") as found:
        assert found == (f"{place}/sshd", False)


def test_the_whole_root_that_is_mounted_over_a_system_folder_names_nothing(
    watched: Endpoint, volume: Path
) -> None:
    path = f"/usr/local/games{volume}/sshd"
    assert ran(watched, "bind", "/", "/usr/local/games", path) == (path, False)
    with running("bind", "/", "/usr/local/games", path, "60", name="sshd") as found:
        assert found == (path, False)


def test_a_system_file_under_the_name_of_another_is_not_believed(watched: Endpoint) -> None:
    words = ("bind", "/usr/bin/sleep", "/usr/bin/passwd", "/usr/bin/passwd")
    assert ran(watched, *words, "0") == ("/usr/bin/passwd", False)


def test_what_runs_in_a_users_namespace_is_not_believed_at_the_start() -> None:
    words = ("user", "/usr/bin/sleep", "/usr/bin/passwd", "/usr/bin/passwd", "60")
    with running(*words, name="passwd", user=NOBODY, group=NOBODY) as found:
        assert found == ("/usr/bin/passwd", False)
    with running(*words[:3], "/usr/bin/sleep", "60", name="sleep", user=NOBODY) as found:
        assert found == ("/usr/bin/sleep", False), "the name is right; the rest may not be"


def test_a_path_that_is_too_deep_is_no_path_from_the_root(
    watched: Endpoint, still: Path, tmp_path: Path
) -> None:
    components = (tmp_path / "usr").parts[1:]
    folder = tmp_path / "usr" / "/".join(f"d{number}" for number in range(38))
    folder.mkdir(parents=True)
    shutil.copy(still, folder / "sshd")
    exe, system = ran(watched, "plain", folder / "sshd")
    assert exe.startswith(".../usr/d0/d1/")
    assert exe.endswith("/d37/sshd")
    assert not system
    assert len(components) + 39 > 40


@pytest.mark.parametrize(("how", "believed"), [("plain", True), ("service", False)])
def test_a_program_that_was_deleted_is_believed_in_the_hosts_namespace_alone(
    still: Path, how: str, *, believed: bool
) -> None:
    with tempfile.TemporaryDirectory(dir="/usr/local/lib", prefix="lavender-tests-") as folder:
        program = Path(folder) / "tool"
        shutil.copy(still, program)
        with running(how, program, "60", name="tool") as found:
            assert found == (str(program), True)
            program.unlink()
            (seed,) = (each for each in read_seeds(HostFiles()) if each.exe == str(program))
            assert seed.system_exe is believed
