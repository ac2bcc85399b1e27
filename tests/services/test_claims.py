import pytest

from services.claims import RETRY_SECS, Claims
from tests.services.cast import Notes, delivery

ONE, TWO, THREE = (delivery(number, b"") for number in (1, 2, 3))


def claimed(*deliveries: object) -> tuple[Claims, Notes]:
    notes = Notes()
    claims = Claims(notes.session)
    claims.add([ONE, TWO, THREE])
    return claims, notes


def test_what_is_in_hand_is_said_to_be_in_progress() -> None:
    claims, notes = claimed()
    claims.ack([TWO])
    claims.keep()
    assert (notes.acked, notes.kept) == ([2], [1, 3])
    assert (len(claims), claims.acked) == (2, 1)


def test_with_nothing_in_hand_there_is_nothing_to_say() -> None:
    notes = Notes()
    Claims(notes.session).keep()
    assert notes.kept == []


def test_each_ending_is_counted() -> None:
    claims, notes = claimed()
    claims.ack([ONE])
    claims.end([TWO])
    claims.give_back([THREE], delay_secs=7)
    assert (notes.acked, notes.ended, notes.returned) == ([1], [2], [(3, 7)])
    assert (claims.acked, claims.ended, claims.returned, len(claims)) == (1, 1, 1, 0)


def test_a_failure_gives_back_what_was_not_settled() -> None:
    claims, notes = claimed()

    def fail() -> None:
        with claims.settling([ONE, TWO]):
            claims.ack([ONE])
            raise LookupError("in the middle")

    with pytest.raises(LookupError):
        fail()
    assert notes.returned == [(2, RETRY_SECS)]
    assert len(claims) == 1


def test_without_a_failure_what_others_are_to_settle_stays_in_hand() -> None:
    claims, notes = claimed()
    with claims.settling([ONE]):
        pass
    assert (notes.returned, len(claims)) == ([], 3)


def test_at_the_end_all_is_given_back_at_once() -> None:
    claims, notes = claimed()
    claims.give_back_all()
    assert notes.returned == [(1, 0), (2, 0), (3, 0)]
    assert len(claims) == 0
