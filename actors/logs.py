"""A program's own log: one JSON object per line on standard error, never waiting for its reader."""

from __future__ import annotations

from typing import Any

import structlog

from actors import stdio
from actors.detection.text import printable, printable_lines

_SEVERAL_LINES = ("exception", "stack")
_VALUE_MAX = 4096


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
    renderers: tuple[Any, ...] = (structlog.processors.JSONRenderer(), _printable_line)
    if pretty:  # what is to be seen is made printable first: the colours are escapes too
        formatter = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=True, exception_formatter=formatter)
        renderers = (_printable_values, console)
    lines = _Lines(stdio.nonblocking(2))
    structlog.configure(
        processors=[
            _typed,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: lines,
    )


def _printable_line(_logger: Any, _name: str, line: str) -> str:
    return printable_lines(line)


def _printable_values(
    _logger: Any, _name: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Every text of a line as its reader may see it; what is no text is shown by its repr."""
    return {
        printable(key): _printable_value(value, several_lines=key in _SEVERAL_LINES)
        for key, value in line.items()
    }


def _printable_value(value: object, *, several_lines: bool) -> object:
    if isinstance(value, int | float | None):
        return value
    text = value if isinstance(value, str) else repr(value)
    return printable_lines(text) if several_lines else printable(text, limit=_VALUE_MAX)


def _typed(
    _logger: Any, _name: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    line["kind"] = "log"
    return line
