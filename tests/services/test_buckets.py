from hypothesis import given
from hypothesis import strategies as st

from services.buckets import Buckets
from transport.subjects import Address

LOUD, QUIET = Address("acme", "loud"), Address("acme", "quiet")


def test_a_burst_passes_and_what_is_beyond_it_waits_its_turn() -> None:
    buckets = Buckets(rate_per_sec=100, burst=1000)
    assert buckets.take(LOUD, 500, now_secs=0) == 0
    assert buckets.take(LOUD, 500, now_secs=0) == 0
    assert buckets.take(LOUD, 500, now_secs=0) == 5
    assert buckets.take(LOUD, 500, now_secs=0) == 10


def test_a_flood_costs_the_quiet_nothing() -> None:
    buckets = Buckets(rate_per_sec=100, burst=1000)
    for _ in range(100):
        buckets.take(LOUD, 500, now_secs=0)
    assert buckets.take(QUIET, 500, now_secs=0) == 0


def test_time_refills_up_to_the_burst() -> None:
    buckets = Buckets(rate_per_sec=100, burst=1000)
    buckets.take(LOUD, 1000, now_secs=0)
    assert buckets.take(LOUD, 1000, now_secs=1e9) == 0
    assert buckets.take(LOUD, 1, now_secs=1e9) > 0


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    buckets = Buckets(rate_per_sec=100, burst=1000)
    buckets.take(LOUD, 1000, now_secs=10)
    assert buckets.take(LOUD, 100, now_secs=0) == 1
    assert buckets.take(LOUD, 100, now_secs=10) == 2


def test_the_table_is_bounded() -> None:
    buckets = Buckets(rate_per_sec=1, burst=500)
    for number in range(70_000):
        buckets.take(Address("acme", str(number)), 1, now_secs=0)
    assert len(buckets) == 65_536


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 100)), min_size=1, max_size=50))
def test_never_more_passes_than_burst_and_rate_allow(sent: list[tuple[int, float]]) -> None:
    buckets = Buckets(rate_per_sec=50, burst=600)
    moment, passes = 0.0, []
    for events, pause in sent:
        moment += pause
        passes.append((moment + buckets.take(LOUD, events, now_secs=moment), events))
    for begin, _ in passes:
        within = sum(events for at, events in passes if begin <= at <= begin + 10)
        assert within <= 600 + 50 * 10 + 500
