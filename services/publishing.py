"""Publishing for good: what the broker does not take now is sent again; what it never can is not.

One message that can never be published would otherwise hold up all that are behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import trio

from transport.session import Outgoing, Session

PUBLISH_WITHIN_SECS = 5.0
_PAUSE_FIRST_SECS = 0.1
_PAUSE_MAX_SECS = 2.0
_FULL_PATIENCE_SECS = 1.0
_FULL_REMEMBERED_SECS = 30.0
_FULL_MAX = 4096

Instead = Callable[[int, str], Outgoing | None]
"""Of the message of an index that can never be published, and why: what to publish in its stead."""


class PublishCounts(Protocol):
    """What is counted."""

    unpublished: int
    """Publishes the broker did not confirm; they were made again."""
    unpublishable: int
    """Messages the broker can never take; records of them went to the invalid lane."""


class Stopped(Exception):  # noqa: N818 - it says what is so
    """The part is told to stop, and what it waits for is away."""


class Full:
    """Subjects in which their agents have as many messages as they may.

    One is waited for at first: its reader may be a moment behind. Then its messages are refused at
    once for a while, or one agent that keeps its subject full would hold up all others.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def is_waited_for(self, subject: str, began: float) -> bool:
        """Whether to try again what is tried since a moment."""
        now = trio.current_time()
        if now < self._until.get(subject, 0.0):
            return False
        if now < began + _FULL_PATIENCE_SECS:
            return True
        self._until.pop(subject, None)
        self._until[subject] = now + _FULL_REMEMBERED_SECS
        if len(self._until) > _FULL_MAX:
            del self._until[next(iter(self._until))]
        return False


async def publish_for_good(  # noqa: PLR0913 - what it needs, by name
    session: Session,
    messages: Sequence[Outgoing],
    *,
    done: Callable[[list[int]], None],
    instead: Instead,
    counts: PublishCounts,
    log: structlog.typing.FilteringBoundLogger,
    full: Full | None = None,
    stopping: trio.Event | None = None,
) -> None:
    """Publish until the broker has every message, or what stands for it. Cancelled, call it again.

    Args:
        session: the broker.
        messages: what to publish, all at once.
        done: called with the indices of those the broker has, as it has them.
        instead: called once for each that can never be published.
        counts: what was done.
        log: where failures are told.
        full: subjects that are full; without it they are waited for.
        stopping: if set, what is away is not waited for.

    Raises:
        Stopped: ``stopping`` is set, and not all is published.
    """
    left = dict(enumerate(messages))
    replaced: set[int] = set()
    pause_secs, began = _PAUSE_FIRST_SECS, trio.current_time()
    await trio.lowlevel.checkpoint()
    while left:
        receipts = await session.publish_all([*left.values()], within_secs=PUBLISH_WITHIN_SECS)
        finished: list[int] = []
        failures: list[str] = []
        for index, receipt in zip([*left], receipts, strict=True):
            if receipt.stored:
                finished.append(index)
            elif receipt.permanent or (
                receipt.subject_full
                and full is not None
                and not full.is_waited_for(left[index].subject, began)
            ):
                counts.unpublishable += 1
                facts = _facts(left[index], receipt.error)
                other = None if index in replaced else instead(index, receipt.error)
                replaced.add(index)
                if other is None:
                    log.error("message can never be published; it is given up", **facts)
                    finished.append(index)
                else:
                    log.error("message can never be published; it is refused", **facts)
                    left[index] = other
            else:
                failures.append(receipt.error)
        for index in finished:
            del left[index]
        done(finished)
        if not failures:
            continue
        counts.unpublished += len(failures)
        log.warning(
            "broker did not take what is published; it is sent again",
            messages=len(failures),
            why=failures[-1],
        )
        await _pause(pause_secs, stopping, why=failures[-1])
        pause_secs = min(2 * pause_secs, _PAUSE_MAX_SECS)


def _facts(message: Outgoing, why: str) -> dict[str, object]:
    return {
        "subject": message.subject[:200],
        "id": message.message_id[:200],
        "bytes": len(message.payload),
        "why": why,
    }


async def _pause(secs: float, stopping: trio.Event | None, *, why: str) -> None:
    if stopping is None:
        await trio.sleep(secs)
        return
    with trio.move_on_after(secs):
        await stopping.wait()
        raise Stopped(why)
