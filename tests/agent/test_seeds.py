import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agent import seeds
from actors.agent.hostfiles import HostFiles
from actors.agent.seeds import ancestors_of, read_seeds, start_ns_of
from bpf.records import TICK_NS

Process = Callable[..., Path]
HOST = HostFiles(Path("/proc/self"))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def process(proc: Path, tmp_path: Path) -> Process:
    """Makes a folder of /proc."""

    def make(
        pid: int, *, ppid: int = 0, start: int = 100, comm: bytes = b"x", **other: bytes
    ) -> Path:
        folder = proc / str(pid)
        folder.mkdir()
        middle = b"0 " * 17
        stat = b"%d (%s) S %d %s%d 0 0\n" % (pid, comm, ppid, middle, start)
        (folder / "stat").write_bytes(other.get("stat", stat))
        (folder / "cmdline").write_bytes(other.get("cmdline", b"x\0"))
        if "exe" in other:
            file = tmp_path / os.fsdecode(other["exe"])
            file.touch()
            (folder / "exe").symlink_to(file)
        return folder

    return make


def test_this_process_is_among_the_seeds() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    mine = next(seed for seed in read_seeds(HOST) if seed.pid == os.getpid())
    assert mine.time_ns >= before
    assert mine.ppid == os.getppid()
    assert mine.uid == os.getuid()
    assert mine.exe == str(Path("/proc/self/exe").readlink())
    assert mine.argv == tuple(Path("/proc/self/cmdline").read_text().split("\0")[:-1])
    assert mine.start_ns == start_ns_of(os.getpid())
    assert mine.start_ns % TICK_NS == 0
    assert mine.parent_start_ns == start_ns_of(os.getppid())


def test_a_start_time_is_on_the_boot_clock() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        start_ns = start_ns_of(child.pid)
        child.kill()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert start_ns is not None
    assert before - TICK_NS <= start_ns <= after


def test_nobody_has_no_start_time(proc: Path) -> None:
    assert start_ns_of(4_194_305) is None
    assert start_ns_of(7, proc) is None


def test_parents_come_before_their_children(process: Process, proc: Path) -> None:
    process(9, ppid=5, start=100)
    process(5, ppid=7, start=100)
    process(7, ppid=0, start=50)
    found = read_seeds(HOST, proc)
    assert [seed.pid for seed in found] == [7, 5, 9]
    assert [seed.parent_start_ns for seed in found] == [
        0,
        50 * TICK_NS,
        100 * TICK_NS,
    ]


@given(comm=st.binary(min_size=1, max_size=15).filter(lambda raw: b"\0" not in raw))
def test_a_comm_may_hold_anything(comm: bytes) -> None:
    stat = b"7 (%s) S 3 %s42 0\n" % (comm, b"0 " * 17)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "stat").write_bytes(stat)
        found = seeds._stat_fields(Path(folder))
    assert found is not None
    assert found[0] == comm.decode("utf-8", "backslashreplace")
    assert (found[1][1], found[1][19]) == ("3", "42")


@pytest.mark.parametrize("stat", [b"", b"7 x", b"7 (x) S 1", b")(", b"("])
def test_a_stat_that_is_none_is_passed_over(process: Process, proc: Path, stat: bytes) -> None:
    process(7, stat=stat)
    assert read_seeds(HOST, proc) == []
    assert start_ns_of(7, proc) is None


def test_a_process_that_ends_meanwhile_is_left_out(process: Process, proc: Path) -> None:
    (process(7) / "cmdline").unlink()
    process(8)
    assert [seed.pid for seed in read_seeds(HOST, proc)] == [8]


def test_other_entries_are_no_processes(process: Process, proc: Path) -> None:
    (proc / "self").mkdir()
    (proc / "uptime").touch()
    process(8)
    assert [seed.pid for seed in read_seeds(HOST, proc)] == [8]


def test_an_executable_that_was_deleted_keeps_its_path(process: Process, proc: Path) -> None:
    process(7, exe=b"x (deleted)")
    (seed,) = read_seeds(HOST, proc)
    assert seed.exe == str(proc / "x")
    assert not seed.system_exe


def test_a_kernel_thread_has_no_executable_and_no_arguments(process: Process, proc: Path) -> None:
    process(2, cmdline=b"", comm=b"kthreadd")
    (seed,) = read_seeds(HOST, proc)
    assert (seed.exe, seed.argv, seed.comm, seed.system_exe) == ("", (), "kthreadd", False)


def test_bytes_that_are_not_utf_8_are_escaped(process: Process, proc: Path) -> None:
    process(7, cmdline=b"a\xff\0b\0\0", exe=b"\xff")
    (seed,) = read_seeds(HOST, proc)
    assert seed.argv == ("a\\xff", "b", "")
    assert seed.exe == f"{proc}/\\xff"


def test_very_many_arguments_are_cut(process: Process, proc: Path) -> None:
    process(7, cmdline=b"abc\0" * 10_000)
    (seed,) = read_seeds(HOST, proc)
    assert len(seed.argv) == 256  # as many as the wire takes


def test_ancestors_go_up_to_the_first(process: Process, proc: Path) -> None:
    process(1)
    process(5, ppid=1)
    process(9, ppid=5)
    process(8, ppid=1)
    assert ancestors_of(9, proc) == {9, 5, 1}


def test_ancestors_end_where_one_is_gone_and_never_turn_in_a_ring(
    process: Process, proc: Path
) -> None:
    process(9, ppid=5)
    assert ancestors_of(9, proc) == {9, 5}
    process(5, ppid=9)
    assert ancestors_of(9, proc) == {9, 5}


def test_a_dead_child_nobody_has_reaped_still_has_its_start_time() -> None:
    child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    before = start_ns_of(child)
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert start_ns_of(child) == before
    os.waitpid(child, 0)
