"""One connection to a broker: nats-py's client without its reconnecting, closing and queueing.

What is bent, and why (nats-py 2.10 to 2.16):

- Its reconnection loop retries an address that refuses connections for two minutes even when told
  not to reconnect, and hides the reason. Here one attempt is one attempt; `transport.session`
  decides about the next.
- It closes a connection from whichever task sees the error first, and waits without limit for a
  peer that does not read. Here whatever goes wrong sets `lost`, and `shut` closes, within a limit.
- A message goes through a queue, a task and a coroutine to its callback. Here `listen` has a plain
  function called out of the parser, several times as fast; an error in one is the connection's end
  and not a line in a log.
- It takes odd subjects for the end of the protocol: `transport.parsing`.
- It would send credentials to a broker that offers no TLS although TLS was asked for, and to one of
  any age. Here both are looked at first.

Everything here runs in asyncio but `send`, `listen` and `unlisten`, which are safe from trio too:
both share one thread, and these only append to a list and wake a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import ParseResult

from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from transport.credentials import Identity
from transport.errors import BrokerTooOld, TransportError
from transport.frames import decode_version, encode_headers
from transport.parsing import Parser
from transport.subjects import check_subject

Handler: TypeAlias = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes subject, reply subject, payload, raw header block."""

OLDEST = (2, 10, 0)
_CONNECT_SECS = 5
_CLOSE_SECS = 1.0
_ABORT_SECS = 0.2
_BUFFER_BYTES = 128 * 1024
_PINGS_UNANSWERED = 2


async def _hear_elsewhere(_: Exception) -> None:
    """What nats-py tells here, `open` raises or `lost` says."""


class _Tcp(TcpTransport):
    """A connection that can be ended within a limit."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # theirs has no annotations

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connect; cancelled, nothing is left open (theirs uses `wait_for`, which may forget)."""
        async with asyncio.timeout(connect_timeout):
            reader, writer = await asyncio.open_connection(
                uri.hostname, uri.port, limit=buffer_size
            )
        self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer

    async def end(self, waiting: list[bytes]) -> None:
        """Send what waits if the peer takes it, and close."""
        writer = self._io_writer
        if writer is None:
            return
        broken = writer.is_closing()
        if not broken:
            with contextlib.suppress(OSError, RuntimeError):
                writer.writelines(waiting)
            writer.close()
        closed = asyncio.ensure_future(writer.wait_closed())
        if not broken:
            # Not `wait_for`: to cancel `wait_closed` is to break it.
            await asyncio.wait({closed}, timeout=_CLOSE_SECS)
        if not closed.done():  # the peer does not read
            writer.transport.abort()
            # After a TLS handshake that failed this would be for ever: asyncio forgets to tell.
            await asyncio.wait({closed}, timeout=_ABORT_SECS)
        closed.cancel()
        await asyncio.gather(closed, return_exceptions=True)


class Wire(Client):
    """One connection, from `open` until `lost` is done or it is `shut`.

    Args:
        on_error: called with what the broker refuses us, as text, in lower case.
    """

    def __init__(self, *, on_error: Callable[[str], None]) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, once the connection is of no more use."""
        self._on_error = on_error
        self._handlers: dict[int, Handler] = {}
        self._wants_tls = False
        self._ps = Parser(self)  # type: ignore[assignment] # as much of theirs as is used
        self._tcp = _Tcp()
        self._transport = self._tcp

    async def open(
        self,
        url: str,
        *,
        name: str,
        identity: Identity,
        tls: ssl.SSLContext | None,
        ping_secs: float,
    ) -> None:
        """Connect; if that fails, whatever it raises, nothing is left open after `shut`.

        Raises:
            BrokerTooOld: the broker's version.
            TransportError: the broker offers no TLS, and we insist.
            OSError, ssl.SSLError, asyncio.TimeoutError, nats.errors.Error: it did not work.
        """
        self._wants_tls = tls is not None
        options: dict[str, Any] = {}
        if tls is not None:
            options["tls"] = tls
        if identity.seed:
            options["signature_cb"] = identity.sign
            if identity.jwt:
                options["user_jwt_cb"] = identity.jwt.encode
            else:
                self._public_nkey = identity.public_key
        await self.connect(
            url,
            name=name,
            allow_reconnect=False,
            connect_timeout=_CONNECT_SECS,
            ping_interval=ping_secs,  # type: ignore[arg-type] # annotated int, only slept
            max_outstanding_pings=_PINGS_UNANSWERED,
            error_cb=_hear_elsewhere,
            **options,
        )
        if not self.is_connected:
            raise ConnectionResetError("the broker closed the connection")
        for task in self._tasks():
            task.add_done_callback(lambda ended: self.give_up(f"{ended.get_coro()} ended"))

    def give_up(self, reason: str) -> None:
        """The connection is of no more use."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def shut(self) -> None:
        """Close, sending what waits to be sent if the peer takes it, within a limit."""
        self.give_up("closed")
        self._status = Client.CLOSED
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waiting, self._pending = self._pending, []
        await self._tcp.end(waiting)

    def _tasks(self) -> list[asyncio.Task[None]]:
        tasks = (self._reading_task, self._ping_interval_task, self._flusher_task)
        return [task for task in tasks if task is not None]

    def send(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put a message into the buffer, `pending_data_size`; never waits.

        Raises:
            ValueError: subject or headers cannot be sent, or it is larger than the broker takes.
        """
        check_subject(subject)
        block = encode_headers(headers) if headers else b""
        size = len(block) + len(payload)
        if size > self.max_payload:
            raise ValueError(f"{size} bytes are more than the broker takes, {self.max_payload}")
        head = (
            f"HPUB {subject} {reply} {len(block)} {size}\r\n"
            if block
            else f"PUB {subject} {reply} {size}\r\n"
        )
        self._put(b"".join((head.encode(), block, payload, b"\r\n")))

    def listen(self, subject: str, handler: Handler) -> int:
        """Have every message on a subject handed over; the number is for `unlisten`.

        Raises:
            ValueError: there is no such subject.
        """
        check_subject(subject)
        self._sid += 1
        self._handlers[self._sid] = handler
        self._put(f"SUB {subject} {self._sid}\r\n".encode())
        return self._sid

    def unlisten(self, number: int, *, leftover: Handler) -> None:
        """No more of these; what is on its way already goes to ``leftover``."""
        self._handlers[number] = leftover
        self._put(f"UNSUB {number}\r\n".encode())

    def _put(self, command: bytes) -> None:
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue is not None and self._flush_queue.empty():
            # The flusher sets this future when it has written; nobody waits for it.
            self._flush_queue.put_nowait(self._loop.create_future())

    # From here on: what nats-py calls, replaced.

    async def _select_next_server(self) -> None:
        (server,) = self._server_pool
        await self._tcp.connect(
            server.uri, buffer_size=_BUFFER_BYTES, connect_timeout=self.options["connect_timeout"]
        )
        self._current_server = server

    async def _process_info(
        self,
        info: dict[str, Any],
        initial_connection: bool = False,  # noqa: FBT001, FBT002 - theirs
    ) -> None:
        """Look at the broker before saying who we are; other brokers it knows are not followed."""
        if not initial_connection:
            return
        version = str(info.get("version", ""))
        try:
            found = decode_version(version)
        except ValueError:
            found = (0, 0, 0)
        if found < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise BrokerTooOld(f"it is nats-server {version or 'of no version'}; needs {oldest}")
        if self._wants_tls and not (info.get("tls_required") or info.get("tls_available")):
            raise TransportError("it offers no TLS, and tls:// or a tls_ setting asks for it")
        if self._wants_tls:
            info["tls_required"] = True  # nats-py upgrades only when the broker insists

    async def _process_err(self, err_msg: str) -> None:
        """A refusal to publish or subscribe is heard; anything else ends the connection."""
        text = err_msg.strip("'")
        self._on_error(text)
        if "permissions violation" not in text:
            self.give_up(text)

    async def _process_op_err(self, e: Exception) -> None:
        self.give_up(str(e) or type(e).__name__)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        handler = self._handlers.get(sid)
        if handler is None:
            return
        try:
            handler(subject, reply, data, headers)
        except Exception as error:  # noqa: BLE001 - a bug of ours: end the connection, and say so
            self._on_error(f"cannot handle what came on {subject!r}: {error!r}")
            self.give_up(repr(error))
