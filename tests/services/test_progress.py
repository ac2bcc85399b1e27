from services.claims import Claims
from services.progress import STALLED_SECS, Progress
from tests.services.cast import Notes, delivery


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.secs = 1000.0

    def __call__(self) -> float:
        return self.secs


def work_for(progress: Progress, clock: Clock, secs: float) -> None:
    """Time goes on, and there is work all the while."""
    for _ in range(int(secs)):
        clock.secs += 1
        progress.has_work()


def test_who_has_nothing_to_do_is_well_for_ever() -> None:
    clock = Clock()
    progress = Progress(clock)
    clock.secs += 10**6
    assert progress.stalled_secs() == 0.0
    assert progress.is_made()


def test_work_of_which_none_is_finished_is_a_stall() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress.has_work()
    work_for(progress, clock, STALLED_SECS - 1)
    assert progress.is_made()
    work_for(progress, clock, 1)
    assert not progress.is_made()
    progress.finished(all_of_it=False)
    assert progress.is_made()
    work_for(progress, clock, STALLED_SECS)
    assert not progress.is_made()
    progress.finished(all_of_it=True)
    assert progress.stalled_secs() == 0.0


def test_work_that_comes_and_fails_and_comes_again_is_a_stall() -> None:
    clock = Clock()
    claims = Claims(Notes().session)
    claims.progress = Progress(clock)
    for _ in range(int(STALLED_SECS)):
        claims.add([delivery(1, b"")])
        claims.give_back([delivery(1, b"")])
        clock.secs += 1
    claims.add([delivery(1, b"")])
    assert not claims.progress.is_made()
    claims.put_off([delivery(1, b"")], delay_secs=3600)
    assert claims.progress.is_made()


def test_what_is_in_hand_and_never_finished_is_a_stall_and_an_ack_is_none() -> None:
    clock = Clock()
    claims = Claims(Notes().session)
    claims.progress = Progress(clock)
    claims.add([delivery(1, b""), delivery(2, b"")])
    for _ in range(7):
        clock.secs += 10
        claims.keep()
    assert not claims.progress.is_made()
    claims.ack([delivery(1, b"")])
    assert claims.progress.is_made()


def test_work_that_others_have_taken_is_no_stall() -> None:
    clock = Clock()
    progress = Progress(clock)
    work_for(progress, clock, 50)
    clock.secs += 31
    assert progress.stalled_secs() == 0.0
    progress.has_work()
    assert progress.stalled_secs() == 0.0
