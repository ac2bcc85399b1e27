"""The standard descriptors: making sure they are there, and writing to them without waiting."""

from __future__ import annotations

import contextlib
import os
import select
import stat

from actors.detection.text import printable_lines

PIPE_CHUNK_BYTES = 4096
"""A pipe that is writable takes this much without blocking (PIPE_BUF, pipe(7))."""


def open_missing() -> None:
    """Put /dev/null where a standard descriptor is closed.

    Else the next file opened gets its number, and what the agent prints goes into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def nonblocking(descriptor: int) -> int:
    """A descriptor of the same terminal or pipe on which a write never blocks.

    The given one's own mode stays as it is: others, the shell for one, share it. A terminal says
    that it is writable when one byte fits, so looking before writing is not enough. Where the
    kernel does not let us open it again (another user's, a socket, a file), the given one.
    """
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
            return descriptor
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return descriptor


def write_now(descriptor: int, data: bytes) -> int:
    """Write as much as the stream takes at once; how many bytes that was."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    written = 0
    try:
        while written < len(data) and poll.poll(0):
            written += os.write(descriptor, data[written : written + PIPE_CHUNK_BYTES])
    except OSError:
        return written  # the other end has gone, the disk is full
    return written


class OutputError(Exception):
    """Standard output or error does not take what is written: it is closed, or the disk is full."""


def write_all(descriptor: int, text: str) -> None:
    """Write all of a text, waiting as long as it takes; for before and after a run only.

    What could deceive whoever reads it on a terminal is escaped, wherever it comes from.

    Raises:
        OutputError: the other end has gone, the disk is full; its cause is the system's error.
    """
    data = printable_lines(text).encode()
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        name = "standard output" if descriptor == 1 else "standard error"
        raise OutputError(f"{name}: {error.strerror}") from error


def say(text: str) -> None:
    """Write one message for the operator on standard error, if that takes it."""
    with contextlib.suppress(OutputError):
        write_all(2, f"lavender: {text}\n")
