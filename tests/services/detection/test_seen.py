import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.detection.seen import Seen

A, B = "a" * 16, "b" * 16


@given(st.lists(st.integers(0, 60), max_size=200))
def test_what_was_added_is_a_repeat_and_nothing_else_is(numbers: list[int]) -> None:
    seen, added = Seen(), set[int]()
    for number in numbers:
        found = seen.find(f"{A}-{number}")
        if number in added:
            assert found == "repeat"
        else:
            assert found == ("late" if added and number < max(added) else "new")
        seen.add(f"{A}-{number}")
        added.add(number)
        seen = Seen.decode(seen.encode())
    runs = Seen.decode(seen.encode())._epochs.get(A, [])
    covered = [number for low, high in runs for number in range(low, high + 1)]
    assert covered == sorted(added)
    assert all(low - before > 1 for (_, before), (low, _) in itertools.pairwise(runs))


def test_epochs_are_apart_and_a_batch_without_an_epoch_before_it_is_new() -> None:
    seen = Seen()
    seen.add(f"{A}-7")
    assert (seen.find(f"{A}-6"), seen.find(f"{B}-6")) == ("late", "new")


def test_it_stays_small() -> None:
    seen = Seen()
    for epoch in range(20):
        for number in range(0, 1000, 2):
            seen.add(f"{epoch:016x}-{number}")
    assert len(seen.encode()) < 20_000
    assert seen.find(f"{19:016x}-998") == "repeat"
    assert seen.find(f"{19:016x}-0") == "late", "forgotten"
    assert seen.find(f"{0:016x}-998") == "new", "forgotten"
