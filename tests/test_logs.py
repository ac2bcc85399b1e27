import json
import os

import pytest
import structlog

from actors import logs
from tests.agent.cast import empty, full_pipe


def test_a_log_is_one_json_object_per_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(pretty=False)
    log = structlog.get_logger()
    log.warning("it\nhappened", why="a\x1b[2Jb\u2028c")
    log.info("again")
    lines = capfd.readouterr().err.splitlines()
    first, second = map(json.loads, lines)
    assert (first["kind"], first["level"], first["event"]) == ("log", "warning", "it\nhappened")
    assert first["why"] == "a\x1b[2Jb\u2028c"
    assert second["event"] == "again"


def test_an_exception_is_part_of_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(pretty=False)
    structlog.get_logger().error("crashed", exc_info=ValueError("of\ntwo lines"))
    (line,) = capfd.readouterr().err.splitlines()
    assert "ValueError: of\ntwo lines" in json.loads(line)["exception"]


def test_a_logger_that_was_used_goes_where_a_later_configuration_says(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure(pretty=False)
    log = structlog.get_logger()
    log.info("once")
    logs.configure(pretty=False)
    with structlog.testing.capture_logs() as said:
        log.info("twice")
    assert [line["event"] for line in said] == ["twice"]
    assert "twice" not in capfd.readouterr().err


def test_debug_lines_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(pretty=True)
    structlog.get_logger().debug("small talk")
    structlog.get_logger().info("news")
    assert "news" in (text := capfd.readouterr().err)
    assert "small talk" not in text


def test_a_log_nobody_reads_is_dropped() -> None:
    with full_pipe() as (_, writer):
        logs._Lines(writer).msg("x" * 100_000)


def test_a_line_that_was_cut_spoils_no_other() -> None:
    with full_pipe() as (reader, writer):
        lines = logs._Lines(writer)
        os.read(reader, 4096)
        lines.msg("y" * 100_000)
        lines.msg("while it is full")
        empty(reader)
        lines.msg("whole")
        assert empty(reader) == b"\nwhole\n"


def test_without_a_reader_a_log_is_dropped() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    logs._Lines(writer).msg("is anybody there")
    os.close(writer)
