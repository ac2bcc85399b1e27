"""Tables that are bounded fairly."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from actors.detection.fair import FairTable, Owner, shares, to_free


class Entry(msgspec.Struct):
    owner: Owner
    weight: int = 1


OWNERS = st.tuples(st.integers(0, 4), st.tuples(st.integers(1, 3), st.just(1)))


@given(st.dictionaries(OWNERS, st.integers(1, 60), max_size=15), st.integers(1, 40))
def test_shares_free_what_is_needed_and_take_from_no_user_while_another_has_more(
    sizes: dict[Owner, int], need: int
) -> None:
    given_up = shares(sizes, need)
    assert sum(given_up.values()) >= min(need, sum(sizes.values()))
    users: Counter[int] = Counter()
    left: Counter[int] = Counter()
    for owner, size in sizes.items():
        users[owner[0]] += size
        left[owner[0]] += size - given_up.get(owner, 0)
    cut = {owner[0] for owner in given_up}
    for uid in users:
        if uid not in cut:
            assert all(left[uid] <= left[other] + 1 or left[uid] <= users[other] for other in cut)
    for uid in cut:
        assert all(left[other] <= left[uid] + 1 for other in users)


@given(st.lists(st.tuples(OWNERS, st.integers(0, 30)), max_size=200), st.integers(4, 40))
def test_a_table_holds_no_more_than_it_may(puts: list[tuple[Owner, int]], most: int) -> None:
    table: FairTable[int, Entry] = FairTable(most)
    for owner, key in puts:
        table.pop(key)
        table.put(key, Entry(owner))
        gone = table.make_room()
        assert len(table) <= most
        assert table.weight == len(table)
        assert not {each for each, _ in gone} & set(table.entries)


def test_a_flood_of_one_user_costs_the_others_nothing() -> None:
    table: FairTable[int, Entry] = FairTable(64)
    for key in range(8):
        table.put(key, Entry((0, (key + 1, 1))))
    for key in range(100, 20_100):
        table.put(key, Entry((1000, (key, 1))))
        table.make_room()
    assert set(range(8)) <= set(table.entries)


def test_a_flood_of_one_lineage_costs_those_of_the_same_user_nothing() -> None:
    table: FairTable[int, Entry] = FairTable(64)
    table.put(1, Entry((1000, (1, 1))))
    for key in range(100, 20_100):
        table.put(key, Entry((1000, (2, 1))))
        table.make_room()
    assert 1 in table.entries


def test_nothing_is_freed_where_there_is_room() -> None:
    assert to_free(10, 10) == 0
    assert to_free(17, 16) == 5
