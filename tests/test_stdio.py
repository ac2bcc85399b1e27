import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from actors import stdio
from tests.agent.cast import ROOT, full_pipe

FILL = b"x" * 100 + b"\n"


def test_a_full_pipe_takes_nothing_now() -> None:
    with full_pipe() as (_, writer):
        assert stdio.write_now(writer, b"line\n") == 0


def test_a_pipe_takes_what_there_is_room_for() -> None:
    with full_pipe() as (reader, writer):
        os.read(reader, 8192)
        assert stdio.write_now(writer, b"y" * 20_000) in range(4096, 8193)


def test_a_closed_pipe_takes_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert stdio.write_now(writer, b"line\n") == 0
    os.close(writer)


def test_a_closed_descriptor_takes_nothing() -> None:
    assert stdio.write_now(987, b"line\n") == 0


def test_a_full_disk_takes_nothing() -> None:
    with Path("/dev/full").open("wb") as full:
        assert stdio.write_now(full.fileno(), b"line\n") == 0


def test_a_terminal_nobody_reads_blocks_no_write_on_its_second_descriptor() -> None:
    master, terminal = pty.openpty()
    ours = stdio.nonblocking(terminal)
    try:
        assert ours != terminal
        assert os.get_blocking(terminal)
        assert not os.get_blocking(ours)
        written = [stdio.write_now(ours, FILL) for _ in range(5000)]
        assert written[0] == len(FILL)
        assert written[-1] == 0
    finally:
        for descriptor in (master, terminal, ours):
            os.close(descriptor)


def test_a_pipe_gets_a_second_descriptor_too() -> None:
    reader, writer = os.pipe()
    ours = stdio.nonblocking(writer)
    os.write(ours, b"hello")
    assert os.read(reader, 5) == b"hello"
    assert os.get_blocking(writer)
    for descriptor in (reader, writer, ours):
        os.close(descriptor)


def test_files_and_sockets_keep_their_descriptor(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "file").open("wb") as file:
        assert stdio.nonblocking(ours.fileno()) == ours.fileno()
        assert stdio.nonblocking(file.fileno()) == file.fileno()
    assert stdio.nonblocking(987) == 987


def test_a_pipe_that_may_not_be_opened_again_keeps_its_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    reader, writer = os.pipe()
    assert stdio.nonblocking(writer) == writer
    os.close(reader)
    os.close(writer)


def test_a_closed_standard_descriptor_becomes_dev_null() -> None:
    code = (
        "import os; from actors import stdio; stdio.open_missing(); "
        "os.write(1, os.readlink('/proc/self/fd/2').encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.close(2),
    )
    assert done.stdout == b"/dev/null"
