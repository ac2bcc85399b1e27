"""The embedded broker's life beside the services: started before them, stopped after them."""

from __future__ import annotations

import structlog
import trio

from transport.errors import ServerError
from transport.server import EmbeddedServer

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_PAUSE_FIRST_SECS = 0.1
_PAUSE_MAX_SECS = 5.0


async def keep_running(server: EmbeddedServer) -> None:
    """Start a broker again whenever it ends, until cancelled. It must have been started once."""
    pause_secs = _PAUSE_FIRST_SECS
    while True:
        code = await server.wait()
        log.error("broker ended; it is started again", exit_code=code)
        while not server.running:
            await trio.sleep(pause_secs)
            try:
                await server.start()
            except ServerError as error:
                log.error("broker does not start", why=str(error))  # noqa: TRY400 - said in full
                pause_secs = min(2 * pause_secs, _PAUSE_MAX_SECS)
            else:
                pause_secs = _PAUSE_FIRST_SECS
