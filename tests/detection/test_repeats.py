"""How often a rule has fired in a lineage, and on what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.detection import repeats
from actors.detection.events import Identity
from actors.detection.fair import Owner
from actors.detection.repeats import Firing, Repeats, worth_telling
from actors.detection.targets import Rank, Target

HOUR_NS = 3600 * 10**9
ROOT: Identity = (7, 1)
KEY = ("rule", ROOT)
OWNER: Owner = (1000, ROOT)


def fire(
    found: Repeats,
    at: int = 0,
    *,
    target: str = "",
    rank: Rank = Rank.OTHER,
    rule: str = "rule",
    root: Identity = ROOT,
    uid: int = 1000,
) -> Firing:
    about = Target(target, target.encode(), rank) if target else None
    return found.count((rule, root), about, owner=(uid, root), time_ns=at)


def test_repeats_are_counted_by_rule_and_lineage() -> None:
    found = Repeats()
    assert [fire(found, at).count for at in range(3)] == [1, 2, 3]
    assert fire(found, 3, root=(8, 1)).count == 1
    assert fire(found, 3, rule="other").count == 1


def test_after_an_hour_of_quiet_it_begins_anew() -> None:
    found = Repeats()
    assert fire(found, 0).count == 1
    assert fire(found, HOUR_NS).count == 2
    assert fire(found, 2 * HOUR_NS + 1).count == 1


def test_a_late_event_counts_and_turns_no_clock_back() -> None:
    found = Repeats()
    assert fire(found, 2 * HOUR_NS).count == 1
    assert fire(found, 0).count == 2
    assert fire(found, 3 * HOUR_NS).count == 3


def test_a_target_that_is_new_begins_an_alert_and_a_known_one_repeats_it() -> None:
    found = Repeats()
    one = fire(found, target="/a")
    assert (one.first, one.told, one.targets) == (True, True, ("/a",))
    again = fire(found, target="/a")
    assert (again.first, again.target) == (False, one.target)
    two = fire(found, target="/b")
    assert (two.first, two.told, two.targets) == (True, True, ("/a", "/b"))
    assert two.target not in {"", one.target}


def test_targets_told_for_themselves_are_bounded_and_the_rest_is_one_alert() -> None:
    found = Repeats()
    fired = [fire(found, target=f"/tmp/{n}/etc/shadow") for n in range(200)]
    assert [each.first for each in fired[:16]] == [True] * 16
    assert fired[16].first
    assert not any(each.first for each in fired[17:])
    assert {each.target for each in fired[16:]} == {""}
    assert fired[-1].left_out == 184
    assert len(fired[-1].targets) == 16


def test_the_hosts_own_file_is_told_however_many_decoys_came_before() -> None:
    found = Repeats()
    for n in range(1000):
        fire(found, target=f"/tmp/{n}/etc/shadow")
    real = fire(found, target="/etc/shadow", rank=Rank.LISTED)
    assert (real.first, real.told) == (True, True)
    assert "/etc/shadow" in real.targets
    last = [fire(found, target=f"/tmp/{n}/etc/shadow") for n in range(1000, 2000)][-1]
    assert "/etc/shadow" in last.targets


def test_where_there_is_no_room_those_with_most_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repeats, "_MAX_WEIGHT", 100)
    found = Repeats()
    fire(found, rule="quiet", uid=0)
    for n in range(1000):
        fire(found, n, root=(100 + n, 1))
    assert fire(found, 1000, rule="quiet", uid=0).count == 2
    assert len(found.fired) <= 100


@given(st.integers(1, 10**9))
def test_powers_of_two_are_told(count: int) -> None:
    assert worth_telling(count) is (count.bit_count() == 1)
