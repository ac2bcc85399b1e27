"""A link: one live connection and all that hangs on it, publishes, questions and feeds."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterable

import trio

from transport.errors import Unreachable
from transport.feed import Feed
from transport.frames import decode_headers
from transport.publishing import BACKLOG_MAX_BYTES, Publisher
from transport.wire import Wire

_TICK_SECS = 1.0


class _Question:
    """A request that waits for its answer."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.done = trio.Event()
        self.answer: bytes | None = None
        self.problem = ""

    def settle(self, answer: bytes | None, problem: str = "") -> None:
        self.answer, self.problem = answer, problem
        self.done.set()


class Link:
    """One connection of a session.

    Args:
        wire: the connection, open.
        generation: counts the session's connections.
        inbox_prefix: what subjects of answers begin with.
    """

    def __init__(self, wire: Wire, *, generation: int, inbox_prefix: str) -> None:
        self.wire = wire
        self.generation = generation
        self._inbox = f"{inbox_prefix}.{secrets.token_hex(8)}"
        self._loop = asyncio.get_running_loop()
        self._questions: dict[bytes, _Question] = {}
        self._numbers = itertools.count()
        self._feeds: list[Feed] = []
        self.publisher = Publisher(wire, inbox=f"{self._inbox}.p", later=self._later)
        wire.listen(f"{self._inbox}.r.*", self._answered)
        self._timer = self._loop.call_later(_TICK_SECS, self._tick)

    def attach(self, feeds: Iterable[Feed]) -> None:
        """Let feeds ask over this connection."""
        for feed in feeds:
            self._feeds.append(feed)
            inbox = f"{self._inbox}.c{next(self._numbers)}"
            feed.attach(self.wire, generation=self.generation, inbox=inbox)

    def drop(self, feed: Feed) -> None:
        """This feed was closed."""
        if feed in self._feeds:
            self._feeds.remove(feed)

    async def ask(self, subject: str, payload: bytes, *, within_secs: float) -> bytes:
        """Ask and wait for the answer.

        Raises:
            Unreachable: none came.
            ValueError: it cannot be sent.
        """
        reply = f"{self._inbox}.r.{next(self._numbers)}"
        question = _Question(subject)
        self._questions[reply.encode()] = question
        try:
            self.wire.send(subject, payload, reply=reply)
            with trio.move_on_after(within_secs):
                await question.done.wait()
        finally:
            self._questions.pop(reply.encode(), None)
        if question.answer is None:
            why = question.problem or f"no answer within {within_secs} s"
            raise Unreachable(f"{subject}: {why}")
        return question.answer

    def takes_more(self) -> bool:
        """Whether the connection keeps up with what it was given."""
        return self.wire.pending_data_size < BACKLOG_MAX_BYTES

    def refused(self, error: str) -> None:
        """The broker refused something; `error` names the subject, in lower case."""
        self.publisher.refused(error)
        for question in self._questions.values():
            if f'"{question.subject.lower()}"' in error:
                question.settle(None, error)

    def end(self, reason: str) -> None:
        """The connection is lost: tell all who wait."""
        self._timer.cancel()
        self.publisher.fail(reason)
        for question in self._questions.values():
            question.settle(None, reason)
        for feed in self._feeds:
            feed.detach()

    def _later(self, secs: float, function: Callable[[], None]) -> object:
        return self._loop.call_later(secs, function)

    def _answered(self, subject: bytes, _: bytes, payload: bytes, headers: bytes | None) -> None:
        question = self._questions.get(subject)
        if question is None:  # too late
            return
        status = decode_headers(headers).status
        if status:
            question.settle(None, "nobody answers there; is JetStream on?")
        else:
            question.settle(payload)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK_SECS, self._tick)
        for feed in self._feeds:
            feed.tick()
