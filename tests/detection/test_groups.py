"""Sequences beyond one lineage in order: what makes a group, and what it takes to complete it."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection import groups, snapshots
from actors.detection.conditions import RuleError, Test
from actors.detection.correlator import Chain, Link
from actors.detection.cuts import Cuts
from actors.detection.engine import Engine
from actors.detection.groups import EVENTS_MAX, Groups
from actors.detection.processes import Process
from actors.detection.programs import Programs
from actors.detection.rules import Match, Sequence, Step
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host

SECOND = 1_000_000_000


def opened(name: str) -> Match:
    return Match("open", Test("path", "equals", (f"/{name}",)))


def steps(names: str, *by: str) -> tuple[Step, ...]:
    return tuple(Step((opened(name),), by) for name in names)


def sequence(names: str = "ab", *by: str, **more: Any) -> Sequence:
    return Sequence(
        id="s", label="s", steps=steps(names, *by), **{"scope": "host", "window_secs": 60, **more}
    )


def host_of(*sequences: Sequence) -> Host:
    host = Host()
    host.engine = Engine(RuleSet(FilterSettings(), sequences), hostname="h")
    for event in host.events:
        host.engine.process(event)
    return host


def opens(host: Host, names: str, *, wait: float = 0) -> list[bool]:
    """Have one new process open each, and say after which of them there was an alert."""
    told = []
    for name in names:
        child = host.fork(host.init)
        host.wait(wait)
        told.append(bool(host.open(child, f"/{name}")))
    return told


@pytest.mark.parametrize(
    ("names", "ordered", "done", "told"),
    [
        ("ab", True, "ab", "01"),
        ("ab", True, "ba", "00"),
        ("ab", True, "bab", "001"),
        ("ab", False, "ba", "01"),
        ("ab", False, "aab", "001"),
        ("ab", False, "abab", "0101"),
        ("aa", False, "aa", "01"),
        ("aab", False, "aba", "001"),
        ("aab", False, "bba", "000"),
        ("aa", True, "aaa", "011"),
        ("aba", True, "abba", "0001"),
        ("abc", True, "acbac", "00001"),
    ],
)
def test_steps(names: str, done: str, told: str, *, ordered: bool) -> None:
    host = host_of(sequence(names, ordered=ordered))
    assert opens(host, done) == [each == "1" for each in told]


def test_a_step_is_seen_once_however_many_of_its_conditions_hold() -> None:
    match = Match("open", Test("path", "startswith", ("/",)))
    step = Step((opened("a"), match))
    host = host_of(Sequence(id="s", label="s", steps=(step,), scope="host", count=2))
    assert opens(host, "aa") == [False, True]


def test_too_slow_is_too_late() -> None:
    assert opens(host_of(sequence()), "ab", wait=59.9) == [False, True]
    assert opens(host_of(sequence()), "ab", wait=60.1) == [False, False]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_events_out_of_order_count_by_their_own_time(order: tuple[int, ...]) -> None:
    host = host_of(sequence("abc"))
    children = [host.fork(host.init) for _ in range(3)]
    began = host.now_ns
    found = []
    for at in order:
        host.now_ns = began + at * SECOND
        found += host.open(children[at], f"/{'abc'[at]}")
    assert len(found) == 1


def test_a_count_of_different_values() -> None:
    any_of = Match("open", Test("path", "startswith", ("/x/",)))
    host = host_of(
        Sequence(
            id="s", label="s", steps=(Step((any_of,)),), scope="host", count=3, distinct="path"
        )
    )
    assert opens(host, ["x/1", "x/1", "x/2", "x/2", "x/3"]) == [False] * 4 + [True]  # type: ignore[arg-type]


PROCESS = Process((1, 1), None, Programs().get("x"), 1000, root=(1, 1))


def groups_of(*sequences: Sequence) -> Groups:
    return Groups(sequences, default_secs=30, cuts=Cuts())


def take(found: Groups, step: int, at: int) -> Chain:
    return found.advance(0, step, Link(at, 1, "", ""), PROCESS, owner="", values=(), value="")


def test_more_of_the_same_value_pushes_nothing_out() -> None:
    found = groups_of(sequence("a", count=3, distinct="path"))
    values = ["1", "2", *["1"] * (EVENTS_MAX + 10), "3"]
    done = [
        found.advance(0, 0, Link(at, 1, "open", each), PROCESS, owner="", values=(), value=each)
        for at, each in enumerate(values)
    ]
    assert [bool(each) for each in done] == [False] * (len(values) - 1) + [True]


def test_more_of_one_step_pushes_no_other_out() -> None:
    found = groups_of(sequence("abc"))
    done = [
        found.advance(0, step, Link(at, 1, "open", ""), PROCESS, owner="", values=(), value="")
        for at, step in enumerate([0, 1, *[0] * (EVENTS_MAX * 2), 2])
    ]
    assert done[-1]


@given(st.lists(st.integers(0, 2), max_size=200))
def test_leaving_out_what_cannot_count_changes_nothing(done: list[int]) -> None:
    def told(exact: int) -> list[bool]:
        found = groups_of(sequence("abc"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(groups, "_EXACT_MAX", exact)
            return [bool(take(found, step, at)) for at, step in enumerate(done)]

    assert told(2) == told(10_000)


@pytest.mark.parametrize("scope", ["process", "lineage", "host"])
def test_events_belong_together_by_the_scope(scope: str) -> None:
    made = {"process": (True, False, False), "lineage": (True, True, False), "host": (True,) * 3}
    for number, expected in enumerate(made[scope]):
        host = host_of(sequence(scope=scope, ordered=False))
        first, _ = host.run(host.init, "/usr/bin/x")
        second = (first, host.fork(first), host.fork(host.init))[number]
        host.open(first, "/a")
        assert bool(host.open(second, "/b")) is expected


@pytest.mark.parametrize("name", ["parent.exe", "parent.command_line", "command_line", "exe"])
def test_any_field_groups_events(name: str) -> None:
    host = host_of(sequence("ab", name))
    told = []
    for parent, opening in (("x", "a"), ("y", "b"), ("x", "b")):
        above, _ = host.run(host.init, f"/usr/bin/{parent}")
        child, _ = host.run(above, f"/usr/bin/{parent}")
        told.append(bool(host.open(child, f"/{opening}")))
    assert told == [False, False, True]


def test_an_event_without_the_value_belongs_to_no_group() -> None:
    host = host_of(sequence("aa", "exe", ordered=False))
    assert not host.open((7000, 5), "/a")
    assert not host.open((7001, 5), "/a")
    assert len(host.engine.groups) == 0


def test_until_ends_what_was_begun() -> None:
    host = host_of(sequence(until=(opened("u"),)))
    assert opens(host, "aubab") == [False, False, False, False, True]


def test_until_ends_only_what_its_owner_has_begun() -> None:
    host = host_of(sequence(scope="process", until=(opened("u"),)))
    one, two = host.fork(host.init), host.fork(host.init)
    host.open(one, "/a")
    host.open(two, "/u")
    assert host.open(one, "/b")


def test_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_MAX_WEIGHT", 100)
    found = groups_of(sequence("a", "user", count=50))
    for at in range(1000):
        link = Link(at, 1, "open", "")
        found.advance(0, 0, link, PROCESS, owner="", values=(str(at % 9),), value="")
    weights = [each.weight for each in found.groups.values()]
    assert sum(weights) == found._table.weight <= 100
    assert found.cut
    found.end(0, owner="")
    assert found._table.weight == 0


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (sequence("a"), "one event is no sequence"),
        (sequence("ab", count=2), "one step can be counted"),
        (sequence("a", count=EVENTS_MAX + 1), "needs more than"),
        (sequence("ab", distinct="path"), "one step only"),
        (sequence("ab", "cwd"), "open events have no field 'cwd'"),
        (sequence("ab", "nonsense"), "nonsense: there is no such field"),
    ],
)
def test_a_sequence_that_cannot_work_is_refused(broken: Sequence, why: str) -> None:
    with pytest.raises(RuleError, match=why):
        RuleSet(FilterSettings(), [broken])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abu"), max_size=30), st.integers(0, 30))
def test_a_snapshot_in_the_middle_changes_nothing(names: list[str], cut: int) -> None:
    found = sequence("aba", "user", ordered=False, until=(opened("u"),))
    whole, parts = host_of(found), host_of(found)
    expected = opens(whole, "".join(names))
    told = opens(parts, "".join(names[:cut]))
    taken = snapshots.take(parts.engine)
    parts.engine = snapshots.restore(RuleSet(FilterSettings(), [found]), taken, hostname="h")
    assert told + opens(parts, "".join(names[cut:])) == expected
    assert parts.engine.groups._table.weight == whole.engine.groups._table.weight
