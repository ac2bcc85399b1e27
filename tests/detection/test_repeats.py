"""How often a rule has fired in a lineage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.detection import repeats
from actors.detection.repeats import Repeats, worth_telling

HOUR_NS = 3600 * 10**9
KEY = ("rule", (7, 1))


def test_repeats_are_counted_by_rule_and_lineage() -> None:
    found = Repeats()
    assert [found.count(KEY, at) for at in range(3)] == [1, 2, 3]
    assert found.count(("rule", (8, 1)), 3) == 1
    assert found.count(("other", (7, 1)), 3) == 1


def test_after_an_hour_of_quiet_it_begins_anew() -> None:
    found = Repeats()
    assert found.count(KEY, 0) == 1
    assert found.count(KEY, HOUR_NS) == 2
    assert found.count(KEY, 2 * HOUR_NS + 1) == 1


def test_a_late_event_counts_and_turns_no_clock_back() -> None:
    found = Repeats()
    assert found.count(KEY, 2 * HOUR_NS) == 1
    assert found.count(KEY, 0) == 2
    assert found.count(KEY, 3 * HOUR_NS) == 3


def test_the_least_recently_raised_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_MAX_KEPT", 2)
    found = Repeats()
    for name in ("a", "b", "a", "c"):
        found.count((name, (1, 1)), 0)
    assert [name for name, _ in found.counts] == ["a", "c"]


@given(st.integers(1, 10**9))
def test_powers_of_two_are_told(count: int) -> None:
    assert worth_telling(count) is (count.bit_count() == 1)
