import os
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from actors.agent import endpoint, lock
from actors.agent.confinement import Confinement, Work
from actors.agent.exits import ExitCode, StartError, start_error
from bpf.errors import BpfError, LoadError, MissingBcc, MissingBtf, UnsupportedKernel


@pytest.fixture(autouse=True)
def _own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK", tmp_path / "run" / "lock")


def test_one_agent_at_a_time() -> None:
    with endpoint._lock(), pytest.raises(StartError, match="another Lavender agent") as caught:
        endpoint._lock()
    assert caught.value.code is ExitCode.ALREADY_RUNNING
    assert f"process {os.getpid()}, user {os.geteuid()}" in str(caught.value)
    endpoint._lock().close()


def test_a_lock_that_cannot_be_made_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LOCK", tmp_path / "none" / "deeper" / "lock")
    with pytest.raises(StartError, match="lock: No such file or directory"):
        endpoint._lock()


def test_a_recording_is_for_its_owner_alone_and_no_link_is_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "events", tmp_path / "link"
    path.touch(mode=0o644)
    link.symlink_to(path)
    with ExitStack() as stack:
        endpoint._open_recording(path, stack)
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(StartError, match="symbolic link"):
            endpoint._open_recording(link, stack)


def test_a_recording_to_a_device_leaves_the_device_as_it_is(tmp_path: Path) -> None:
    device = tmp_path / "null"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    device.chmod(0o666)
    with ExitStack() as stack:
        endpoint._open_recording(device, stack)
    assert stat.S_IMODE(device.stat().st_mode) == 0o666


def test_a_recording_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with ExitStack() as stack:
        assert endpoint._open_recording(None, stack) is None
        with pytest.raises(StartError, match="Is a directory") as caught:
            endpoint._open_recording(tmp_path, stack)
        assert caught.value.code is ExitCode.RECORDING


def test_a_recording_goes_to_a_file_and_to_no_pipe(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with ExitStack() as stack, pytest.raises(StartError, match="is not a file"):
        endpoint._open_recording(fifo, stack)
    os.close(reader)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MissingBcc(""), 3),
        (MissingBtf(""), 4),
        (UnsupportedKernel(""), 5),
        (LoadError(""), 6),
        (BpfError(""), 6),
    ],
)
def test_each_reason_not_to_start_has_its_exit_code(error: BpfError, code: int) -> None:
    assert start_error(error).code == code


def test_the_announcement_does_not_need_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    confinement = Confinement()
    monkeypatch.setattr(confinement, "close_calls", lambda _: None)
    work = Work(spool=None, pins=None, rules=None, broker_url=None, kills=False)
    saved = os.dup(2)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        os.dup2(writer, 2)
        endpoint._announce(15.0, confinement, work)
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(writer)
