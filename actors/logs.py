"""A program's own log: one JSON object per line on standard error, never waiting for its reader."""

from __future__ import annotations

from typing import Any

import structlog

from actors import stdio


class _Lines:
    """Writes what the stream takes at once; a log must not stop the program.

    Args:
        descriptor: where to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._cut = False

    def msg(self, message: str) -> None:
        # A line that had to be cut is ended first, so that it spoils no other.
        line = b"\n" * self._cut + message.encode("utf-8", "backslashreplace") + b"\n"
        written = stdio.write_now(self._descriptor, line)
        if written:
            self._cut = written < len(line)

    log = debug = info = warning = error = critical = exception = fatal = failure = msg


def configure(*, pretty: bool) -> None:
    """Send structlog to standard error."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=True, exception_formatter=structlog.dev.plain_traceback
        )
        if pretty
        else structlog.processors.JSONRenderer()
    )
    lines = _Lines(stdio.nonblocking(2))
    structlog.configure(
        processors=[
            _typed,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: lines,
    )


def _typed(
    _logger: Any, _name: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    line["kind"] = "log"
    return line
