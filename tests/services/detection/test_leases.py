from hypothesis import given
from hypothesis import strategies as st

from services.detection.leases import Move, plan
from services.detection.state import Beat

P = 16


def beat(workers: int, held: set[int], free: set[int]) -> Beat:
    return Beat(workers, frozenset(held), frozenset(free))


def test_one_worker_takes_all() -> None:
    assert plan(frozenset(), beat(1, set(), set(range(P))), partitions=P).wanted == tuple(range(P))


def test_what_is_above_the_share_is_given_back() -> None:
    move = plan(frozenset(range(P)), beat(3, set(range(P)), set()), partitions=P)
    assert move == Move(surplus=frozenset(range(6, P)))


def test_what_was_taken_by_another_is_lost() -> None:
    move = plan(frozenset({1, 2}), beat(2, {2}, {7}), partitions=P)
    assert move == Move(lost=frozenset({1}), wanted=(7,))


@given(st.lists(st.integers(0, 6), min_size=P, max_size=P), st.integers(1, 6))
def test_workers_that_follow_the_plan_come_to_hold_everything(owners: list[int], n: int) -> None:
    """Owner 0 is nobody; owners above ``n`` are dead."""
    held = {w: {p for p, owner in enumerate(owners) if owner == w} for w in range(1, n + 1)}
    for _ in range(3):
        for worker, mine in held.items():
            free = set(range(P)) - set().union(*held.values())
            move = plan(frozenset(mine), beat(n, mine, free), partitions=P)
            held[worker] = (mine - move.surplus) | set(move.wanted)
    assert sorted(p for mine in held.values() for p in mine) == list(range(P))
    assert max(map(len, held.values())) <= -(-P // n)
