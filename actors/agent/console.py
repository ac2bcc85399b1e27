"""The consoles: what the agent prints, without ever waiting inside a write.

A slow reader of standard output must not stop detection. Each console writes only what the stream
takes at once, waits as an actor for the rest, and its mailbox drops what is too much, counted.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import write
from typing import Literal, TypeVar

import trio

from actors.agent import render
from actors.agent.messages import Activity, AlertBatch, ResponseBatch, Status
from actors.runtime import Actor
from actors.stdio import PIPE_CHUNK_BYTES

T = TypeVar("T")
Output = Literal["json", "pretty", "none"]
_AGAIN_SECS = 0.02


class Stream:
    """A descriptor written to without blocking the thread.

    Args:
        descriptor: standard output or error, as `stdio.nonblocking` gives it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self.closed = False
        self.lines_dropped = 0
        """Lines that could not be written because the other end had gone or the disk was full."""

    async def send(self, lines: list[bytes]) -> bool:
        """Write lines; False if the stream fails, and then they are counted as dropped.

        Cancelled, a line may have been written in part.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed:
            self.lines_dropped += len(lines)
            return False
        data = memoryview(b"".join(lines))
        try:
            while data:
                events = self._poll.poll(0)
                if events and events[0][1] & (select.POLLERR | select.POLLNVAL):
                    raise BrokenPipeError
                if not events:
                    await trio.lowlevel.wait_writable(self._descriptor)
                    continue
                try:
                    data = data[write(self._descriptor, data[:PIPE_CHUNK_BYTES]) :]
                except BlockingIOError:  # less room than the next character needs
                    await trio.sleep(_AGAIN_SECS)
        except OSError as error:
            self.closed = isinstance(error, BrokenPipeError)
            self.lines_dropped += len(lines)
            return False
        return True


@dataclass(frozen=True)
class Style:
    """How to print: the mode, and the boot time that turns boot clock into UTC."""

    output: Output
    boot_unix_ns: int


class EventConsole(Actor):
    """Prints executions and connections, on standard output.

    Args:
        style: how.
        stream: where.
    """

    accepts = (Activity,)

    def __init__(self, *, style: Style, stream: Stream) -> None:
        self._boot = style.boot_unix_ns
        self._stream = stream
        self._line = render.event_pretty if style.output == "pretty" else render.event_json
        self._silent = style.output == "none"

    async def handle(self, message: Activity) -> None:
        """Print a batch."""
        if self._silent:
            await trio.lowlevel.checkpoint()
            return
        lines = [self._line(event, ancestry, self._boot) for event, ancestry in message.entries]
        await _send(self, self._stream, lines)


class AlertConsole(Actor):
    """Prints alerts, responses and status records, on standard error.

    Args:
        style: how.
        stream: where.
    """

    accepts = (AlertBatch, ResponseBatch, Status)

    def __init__(self, *, style: Style, stream: Stream) -> None:
        self._boot = style.boot_unix_ns
        self._stream = stream
        self._pretty = style.output == "pretty"
        self._silent = style.output == "none"

    async def handle(self, message: AlertBatch | ResponseBatch | Status) -> None:
        """Print a batch."""
        if self._silent:
            await trio.lowlevel.checkpoint()
            return
        await _send(self, self._stream, self._lines(message))

    def _lines(self, message: AlertBatch | ResponseBatch | Status) -> list[bytes]:
        boot = self._boot
        match message:
            case AlertBatch():
                alert_line = render.alert_pretty if self._pretty else render.alert_json
                # A rule that goes on firing in one lineage is told at the 1st, 2nd, 4th, 8th time.
                told = [each for each in message.alerts if each.told]
                return _rendered(alert_line, told, boot)
            case ResponseBatch():
                response_line = render.response_pretty if self._pretty else render.response_json
                return _rendered(response_line, message.responses, boot)
            case Status():
                status_line = render.status_pretty if self._pretty else render.status_json
                return [status_line(message.record)]


def _rendered(line: Callable[[T, int], bytes], items: Iterable[T], boot: int) -> list[bytes]:
    return [line(item, boot) for item in items]


async def _send(actor: Actor, stream: Stream, lines: list[bytes]) -> None:
    was_closed = stream.closed
    if not await stream.send(lines) and stream.closed and not was_closed:
        actor.context.log.warning("output closed; its lines are counted and dropped")
