import json
import os
import pty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing

from actors import stdio
from actors.agent.console import AlertConsole, EventConsole, Output, Stream, Style
from actors.agent.messages import Activity, AlertBatch, Response, ResponseBatch, Status
from actors.runtime.testing import run_actor
from tests.agent.cast import alert, an_exec, empty, full_pipe

RESPONSE = Response(7, 1, "nc", "killed", "score", dry_run=False, score=250, rule="r", time_ns=1)
STATUS = Status({"uptime_secs": 1.0, "probes": {}})


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def style(output: Output) -> Style:
    return Style(output, 0)


async def test_lines_arrive_whole_and_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = Stream(writer)
    assert await stream.send([b"one\n", b"two\n"])
    assert await stream.send([b"three\n"])
    assert empty(reader) == b"one\ntwo\nthree\n"
    assert stream.lines_dropped == 0


async def test_a_full_pipe_keeps_the_actor_waiting_and_never_the_thread() -> None:
    with full_pipe() as (reader, writer), trio.fail_after(10):
        stream = Stream(writer)
        with trio.move_on_after(0.05) as patience:
            await stream.send([b"line\n"])
        assert patience.cancelled_caught
        assert stream.lines_dropped == 0
        empty(reader)
        assert await stream.send([b"line\n"])
        assert empty(reader) == b"line\n"


async def test_more_than_a_pipe_holds_is_written_as_it_is_read(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = [b"%07d\n" % number for number in range(50_000)]
    got = bytearray()

    async def consume() -> None:
        while len(got) < 8 * len(lines):
            await trio.lowlevel.wait_readable(reader)
            got.extend(os.read(reader, 65536))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            assert await Stream(writer).send(lines)
    assert got == b"".join(lines)


async def test_a_terminal_nobody_reads_never_blocks_the_thread() -> None:
    master, terminal = pty.openpty()
    ours = stdio.nonblocking(terminal)
    try:
        with trio.move_on_after(0.2) as patience:
            await Stream(ours).send([b"x" * 100 + b"\n"] * 5000)
        assert patience.cancelled_caught
    finally:
        for descriptor in (master, ours, terminal):
            os.close(descriptor)


async def test_a_pipe_shared_in_nonblocking_mode_is_waited_for(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    os.set_blocking(writer, False)
    stream = Stream(writer)
    with trio.move_on_after(0.05) as patience:
        await stream.send([b"x" * 1000 + b"\n"] * 1000)
    assert patience.cancelled_caught
    assert stream.lines_dropped == 0


async def test_lines_for_a_closed_pipe_are_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    stream = Stream(writer)
    assert not await stream.send([b"one\n", b"two\n"])
    assert stream.closed
    assert not await stream.send([b"three\n"])
    assert stream.lines_dropped == 3


async def test_a_reader_that_leaves_while_we_wait_ends_the_wait() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            stream = Stream(writer)
            nursery.start_soon(stream.send, [b"x" * 1000 + b"\n"] * 1000)
            await trio.sleep(0.05)
            os.close(reader)
    assert stream.closed
    assert stream.lines_dropped == 1000
    os.close(writer)


async def test_a_closed_descriptor_is_a_closed_stream() -> None:
    stream = Stream(987)
    assert not await stream.send([b"one\n"])
    assert stream.closed


async def test_lines_for_a_full_disk_are_counted_and_tried_again() -> None:
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device, opened at once
        stream = Stream(full.fileno())
        assert not await stream.send([b"one\n"])
        assert not await stream.send([b"two\n"])
        assert not stream.closed
        assert stream.lines_dropped == 2


async def test_a_file_takes_lines(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        assert await Stream(file.fileno()).send([b"one\n"])
    assert (tmp_path / "out").read_bytes() == b"one\n"


# The actors


async def test_events_are_printed_as_json(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with run_actor(EventConsole(style=style("json"), stream=Stream(writer))) as stage:
        await stage.tell(Activity([(an_exec(), "a=>b"), (an_exec(pid=8), "")]))
        lines = empty(reader).splitlines()
    assert [json.loads(line)["pid"] for line in lines] == [7, 8]


async def test_events_are_printed_for_people(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with run_actor(EventConsole(style=style("pretty"), stream=Stream(writer))) as stage:
        await stage.tell(Activity([(an_exec(), "a=>b")]))
        assert "ls -l" in empty(reader).decode()


@pytest.mark.parametrize("output", ["json", "pretty"])
@pytest.mark.parametrize("message", [AlertBatch([alert()]), ResponseBatch([RESPONSE]), STATUS])
async def test_alerts_responses_and_status_are_printed(
    pipe: tuple[int, int], output: Output, message: Any
) -> None:
    reader, writer = pipe
    async with run_actor(AlertConsole(style=style(output), stream=Stream(writer))) as stage:
        await stage.tell(message)
        raw = empty(reader)
    assert raw.endswith(b"\n")
    if output == "json":
        assert isinstance(json.loads(raw), dict)


async def test_output_none_prints_nothing() -> None:
    closed = Stream(987)
    async with run_actor(EventConsole(style=style("none"), stream=closed)) as stage:
        await stage.tell(Activity([(an_exec(), "")]))
    async with run_actor(AlertConsole(style=style("none"), stream=closed)) as stage:
        await stage.tell(AlertBatch([alert()]))
    assert closed.lines_dropped == 0


async def test_a_closed_output_is_logged_once_and_does_not_crash(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    stream = Stream(writer)
    with structlog.testing.capture_logs() as logs:
        async with run_actor(EventConsole(style=style("json"), stream=stream)) as stage:
            for _ in range(3):
                await stage.tell(Activity([(an_exec(), "")]))
    assert [line["event"] for line in logs] == ["output closed; its lines are counted and dropped"]
    assert stream.lines_dropped == 3
