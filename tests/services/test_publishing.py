from __future__ import annotations

import pytest
import structlog
import trio
import trio.testing

from services.detection.processing import WorkCounts
from services.publishing import Full, Stopped, publish_for_good
from tests.services.cast import Notes
from transport.session import Outgoing

EVIL, GOOD = "alerts.t.evil", "alerts.t.good"


def message(subject: str, number: int = 0) -> Outgoing:
    return Outgoing(subject, b"{}", f"{subject}-{number}")


class Desk:
    """What is published, and what came of it."""

    def __init__(self, notes: Notes, *, full: Full | None = None) -> None:
        self.notes = notes
        self.counts = WorkCounts()
        self.done: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self.full = full
        self.stopping: trio.Event | None = None

    async def publish(self, *messages: Outgoing) -> None:
        def instead(index: int, why: str) -> Outgoing:
            self.refused.append((index, why))
            return message("telemetry.invalid.t.evil", index)

        await publish_for_good(
            self.notes.session,
            messages,
            done=self.done.extend,
            instead=instead,
            counts=self.counts,
            log=structlog.get_logger(),
            full=self.full,
            stopping=self.stopping,
        )


async def test_one_that_can_never_be_does_not_hold_up_the_others() -> None:
    desk = Desk(Notes(never=lambda each: each.subject == EVIL))
    await desk.publish(message(EVIL), message(GOOD))
    assert [each.subject for each in desk.notes.published] == [GOOD, "telemetry.invalid.t.evil"]
    assert (sorted(desk.done), desk.refused) == ([0, 1], [(0, "too large")])
    assert (desk.counts.unpublishable, desk.counts.unpublished) == (1, 0)


async def test_one_whose_record_can_never_be_either_is_given_up() -> None:
    desk = Desk(Notes(never=lambda each: each.subject != GOOD))
    await desk.publish(message(EVIL), message(GOOD))
    assert [each.subject for each in desk.notes.published] == [GOOD]
    assert sorted(desk.done) == [0, 1]


async def test_who_keeps_his_subject_full_is_waited_for_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk(Notes(full=lambda each: each.subject == EVIL), full=Full())
    began = trio.current_time()
    await desk.publish(message(EVIL), message(GOOD))
    waited = trio.current_time() - began
    assert 1.0 <= waited < 3.0
    for number in range(100):
        await desk.publish(message(EVIL, number), message(GOOD, number))
    assert trio.current_time() - began == waited
    assert len(desk.refused) == 101


async def test_a_reader_that_is_a_moment_behind_costs_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    room = iter([True, True])
    desk = Desk(Notes(full=lambda _: next(room, False)), full=Full())
    await desk.publish(message(EVIL))
    assert ([each.subject for each in desk.notes.published], desk.refused) == ([EVIL], [])


async def test_told_to_stop_it_waits_no_longer_for_what_is_away() -> None:
    desk = Desk(Notes(lambda _: False))
    desk.stopping = trio.Event()
    desk.stopping.set()
    with pytest.raises(Stopped, match="no room"):
        await desk.publish(message(GOOD))
