"""The protocol's lines, read in nats-py's stead.

NATS separates by space and tab alone. nats-py separates by all that a regular expression calls
white space, so a subject with a vertical tab or a form feed, which the broker takes, would end
every connection that it is delivered over; and a line of 4096 bytes that it does not know it would
wait to go on for ever.
"""

from __future__ import annotations

import json
from typing import Any

from nats.errors import ProtocolError

_LINE_MAX = 1 << 20
"""The broker's description of itself may be long."""
_END = b"\r\n"


class Parser:
    """Hands over what came, message by message; takes the place of nats-py's.

    Args:
        client: whose ``_process_…`` methods are called.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._buffer = bytearray()
        self._message: tuple[int, bytes, bytes, int, int] | None = None
        """Of the message whose payload comes: sid, subject, reply, header size, whole size."""

    def reset(self) -> None:
        """Forget what came in part."""
        self._buffer.clear()
        self._message = None

    async def parse(self, data: bytes = b"") -> None:
        """Take bytes as they come.

        Raises:
            ProtocolError: they are no such protocol.
        """
        buffer = self._buffer
        buffer += data
        while buffer:
            if self._message is not None:
                sid, subject, reply, header_size, size = self._message
                if len(buffer) < size + len(_END):
                    return
                header, payload = bytes(buffer[:header_size]), bytes(buffer[header_size:size])
                del buffer[: size + len(_END)]
                self._message = None
                await self._client._process_msg(sid, subject, reply, payload, header)  # noqa: SLF001 - theirs
                continue
            end = buffer.find(_END)
            if end < 0:
                if len(buffer) > _LINE_MAX:
                    raise ProtocolError("a line without an end")
                return
            line = bytes(buffer[:end])
            del buffer[: end + len(_END)]
            await self._line(line)

    async def _line(self, line: bytes) -> None:
        word, _, rest = line.replace(b"\t", b" ").partition(b" ")
        client = self._client
        word = word.upper()
        if word in (b"MSG", b"HMSG"):
            self._message = _message(rest, headers=word == b"HMSG")
        elif word == b"PING":
            await client._process_ping()  # noqa: SLF001 - theirs, as all here
        elif word == b"PONG":
            await client._process_pong()  # noqa: SLF001
        elif word == b"-ERR":
            await client._process_err(rest.strip().decode("utf-8", "backslashreplace").lower())  # noqa: SLF001
        elif word == b"INFO":
            await client._process_info(json.loads(rest))  # noqa: SLF001
        elif word != b"+OK":
            raise ProtocolError(f"unknown line {line[:40]!r}")


def _message(rest: bytes, *, headers: bool) -> tuple[int, bytes, bytes, int, int]:
    """``<subject> <sid> [<reply>] [<header size>] <size>``."""
    parts = [part for part in rest.split(b" ") if part]
    sizes = 2 if headers else 1
    if len(parts) - sizes not in (2, 3):
        raise ProtocolError(f"malformed message line {rest[:80]!r}")
    try:
        numbers = [int(part) for part in (parts[1], *parts[-sizes:])]
    except ValueError:
        raise ProtocolError(f"malformed message line {rest[:80]!r}") from None
    sid, size = numbers[0], numbers[-1]
    header_size = numbers[1] if headers else 0
    if not 0 <= header_size <= size:
        raise ProtocolError(f"malformed message line {rest[:80]!r}")
    reply = parts[2] if len(parts) - sizes == 3 else b""
    return sid, parts[0], reply, header_size, size
