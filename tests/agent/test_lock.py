"""One agent at a time; nobody but root keeps it from starting."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.agent import lock

HOLD = """
import fcntl, os, sys
held = os.open(sys.argv[1], int(sys.argv[2]))
fcntl.flock(held, int(sys.argv[3]))
print("held", flush=True)
sys.stdin.read()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="starts another user's process")


@contextmanager
def held_by_another(path: Path, *, flags: int, kind: int, user: int) -> Iterator[int]:
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", HOLD, str(path), str(flags), str(kind)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=user,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process.pid
        finally:
            process.communicate(b"")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for folder in (*tmp_path.parents, tmp_path)[:-1]:
        if "pytest-of" in str(folder):
            folder.chmod(folder.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    return tmp_path / "run" / "lock"


def test_file_and_folder_are_root_s_alone_whatever_they_were(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.touch(mode=0o644)
    os.close(lock.take(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@as_root
@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_a_user_who_holds_a_file_that_he_could_read_keeps_no_agent_from_starting(
    path: Path, kind: int
) -> None:
    path.parent.mkdir(mode=0o755)
    path.touch(mode=0o644)
    with held_by_another(path, flags=os.O_RDONLY, kind=kind, user=1234):
        first = lock.take(path)
        with pytest.raises(lock.LockHeldError):
            lock.take(path)
        os.close(first)
    os.close(lock.take(path))


def test_another_agent_is_named(path: Path) -> None:
    os.close(lock.take(path))
    with (
        held_by_another(path, flags=os.O_RDWR, kind=fcntl.LOCK_EX, user=os.geteuid()) as pid,
        pytest.raises(lock.LockHeldError, match=f"process {pid}, user {os.geteuid()}, '.*'"),
    ):
        lock.take(path)


def test_an_agent_of_before_which_left_the_file_readable_is_still_an_agent(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.touch(mode=0o644)
    flags = os.O_WRONLY | os.O_APPEND
    with (
        held_by_another(path, flags=flags, kind=fcntl.LOCK_EX, user=os.geteuid()),
        pytest.raises(lock.LockHeldError),
    ):
        lock.take(path)


def test_a_descriptor_of_before_holds_another_file_from_then_on(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.touch(mode=0o644)
    before = os.open(path, os.O_RDONLY)
    os.close(lock.take(path))
    fcntl.flock(before, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock.take(path))
    os.close(before)


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    (tmp_path / "file").touch(mode=0o644)
    path.symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic link"):
        lock.take(path)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_what_is_no_file_is_refused(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(OSError, match="is no file"):
        lock.take(path)
