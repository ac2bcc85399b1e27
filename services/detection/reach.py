"""Reaching the shared state: whoever calls waits where it is away, and it is said once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from services.detection.memory_state import MemoryState
from services.detection.state import State, StateUnavailable
from services.passwords import read_password
from transport.credentials import without_secrets

T = TypeVar("T")
log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_PAUSE_FIRST_SECS = 0.1
_PAUSE_MAX_SECS = 2.0


def open_reach(url: str, *, prefix: str, password_file: Path | None = None) -> Reach:
    """The state of a configuration.

    Args:
        url: ``memory:``, or a Redis's.
        prefix: of its keys.
        password_file: of Redis, where the url has no password.

    Raises:
        ConfigError: that file cannot be used.
    """
    if url == "memory:":
        return Reach(MemoryState(), shown=url)
    # Only who shares its state pays for the import.
    from services.detection.redis_state import RedisState  # noqa: PLC0415

    key = "detection.state_password_file"
    password = read_password(password_file, key) if password_file else None
    return Reach(RedisState(url, prefix=prefix, password=password), shown=without_secrets(url))


class Reach:
    """A state that may be away for a while.

    Args:
        state: the state.
        shown: its address, without secrets.
    """

    def __init__(self, state: State, *, shown: str) -> None:
        self.state = state
        self.shown = shown
        self.available = True
        """Whether the last call reached it."""
        self.round_trips = 0
        """Calls that did."""
        self.failures = 0
        """Calls that did not."""

    async def once(self, work: Callable[[State], Awaitable[T]]) -> T:
        """The result of ``work(state)``.

        Raises:
            StateUnavailable: it is away.
        """
        try:
            result = await work(self.state)
        except StateUnavailable as error:
            if self.available:
                log.warning("state is away; acks wait for it", state=self.shown, why=str(error))
            self.available = False
            self.failures += 1
            raise
        if not self.available:
            log.info("state is back", state=self.shown)
        self.available = True
        self.round_trips += 1
        return result

    async def call(self, work: Callable[[State], Awaitable[T]], *, until: trio.Event) -> T:
        """The result of ``work(state)``, once it can be reached.

        Raises:
            StateUnavailable: it is away, and ``until`` is set.
        """
        pause_secs = _PAUSE_FIRST_SECS
        while True:
            try:
                return await self.once(work)
            except StateUnavailable:
                if until.is_set():
                    raise
            with trio.move_on_after(pause_secs):
                await until.wait()
            pause_secs = min(2 * pause_secs, _PAUSE_MAX_SECS)
