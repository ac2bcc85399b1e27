from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.sequence import Sequences
from transport.subjects import Address

ONE = Address("acme", "web-1")
KEY = (ONE, "00000000000000aa")


def counts(*batches: tuple[int, int]) -> dict[str, int]:
    sequences = Sequences()
    for first, last in batches:
        sequences.observe(*KEY, first, last)
    return {name: value for name, value in asdict(sequences.counts).items() if value}


def test_batches_in_order_are_nothing_to_speak_of() -> None:
    assert counts((0, 499), (500, 999), (1000, 999), (1000, 1000)) == {}


def test_what_was_before_the_first_is_not_missed() -> None:
    assert counts((5000, 5499), (5500, 5999)) == {}


def test_a_gap_is_counted_and_what_fills_it_too() -> None:
    assert counts((0, 9), (20, 29)) == {"gaps": 1, "gap_events": 10}
    assert counts((0, 9), (20, 29), (10, 14)) == {"gaps": 1, "gap_events": 10, "filled_events": 5}


def test_a_batch_that_comes_again_is_a_repeat() -> None:
    assert counts((0, 9), (10, 19), (0, 9)) == {"repeats": 1}
    assert counts((0, 9), (20, 29), (10, 19), (10, 19))["repeats"] == 1


def test_batches_without_events_repeat_nothing() -> None:
    assert counts((0, 9), (10, 9), (10, 9)) == {}


def test_an_agent_with_an_epoch_in_every_batch_pushes_out_its_own() -> None:
    sequences = Sequences()
    other = Address("acme", "other")
    sequences.observe(other, "00000000000000aa", 0, 9)
    for number in range(66_000):
        sequences.observe(ONE, f"{number:016x}", 0, 9)
    assert len(sequences) == 8 + 1
    assert sequences.counts.forgotten == 66_000 - 8
    sequences.observe(other, "00000000000000aa", 20, 29)
    assert sequences.counts.gap_events == 10


def test_agents_are_bounded() -> None:
    sequences = Sequences()
    for number in range(66_000):
        sequences.observe(Address("acme", f"web-{number}"), "00000000000000aa", 0, 9)
    assert len(sequences) == 65_536
    assert sequences.counts.forgotten == 66_000 - 65_536


@given(st.permutations(range(12)))
def test_in_whatever_order_all_arrives_nothing_stays_missing(order: list[int]) -> None:
    sequences = Sequences()
    sequences.observe(*KEY, 0, -1)
    for number in order:
        sequences.observe(*KEY, number * 10, number * 10 + 9)
    found = sequences.counts
    assert found.gap_events == found.filled_events
    assert found.repeats == 0
