"""Watched processes choose how long their paths and arguments are: memory is bounded."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest

from actors.detection import snapshots
from actors.detection.builtin import builtin_rules
from actors.detection.conditions import Test as Condition
from actors.detection.engine import Engine
from actors.detection.rules import Match, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host, rules
from actors.detection.text import digest, is_short, shortened

EXECS = 22_000
SNAPSHOT_MAX_BYTES = 16 << 20
MEMORY_MAX_BYTES = 48 << 20
FOLDER = "/home/u/" + "/".join([r"\xff" * 255] * 15)
"""As the path of 3.8 KB of bytes that are no text reads."""
ASTRAL = "/home/u/" + "/".join(["\U0001f511" * 63] * 15)


def asks_for_command_lines() -> RuleSet:
    asks = Rule(
        id="asks",
        label="asks",
        matches=(Match("exec", Condition("parent.command_line", "contains", ("nothing has it",))),),
    )
    return RuleSet(FilterSettings(), [*builtin_rules(), asks])


@pytest.mark.parametrize("folder", [FOLDER, ASTRAL], ids=["escaped", "astral"])
def test_a_flood_of_long_paths_takes_a_bounded_part_of_memory_and_snapshot(folder: str) -> None:
    host = Host()
    host.engine = Engine(asks_for_command_lines())
    shell = host.fork(host.bash)
    for number in range(EXECS):
        path = f"{folder}/{number}"
        child = host.fork(shell)
        host.exec(child, path, "x" * 4000, system=False)
        if number % 8 == 0:
            host.connect(child)
            host.open(child, f"{path}/etc/shadow")
        host.events.clear()
    taken = snapshots.take(host.engine)
    assert len(taken) < SNAPSHOT_MAX_BYTES
    tracemalloc.start()
    again = snapshots.restore(host.engine.rules, taken)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < MEMORY_MAX_BYTES
    assert snapshots.take(again) == taken


def test_a_program_of_a_long_path_is_judged_by_all_of_it_when_it_starts() -> None:
    host = Host()
    middle = Rule(
        id="middle",
        label="middle",
        matches=(Match("exec", Condition("exe", "contains", ("/needle/",))),),
    )
    host.engine = Engine(RuleSet(FilterSettings(), [middle]))
    _, alerts = host.run(host.bash, f"{FOLDER}/needle/{'y' * 300}/z", system=False)
    assert rules(alerts) == ["middle"]


def test_a_long_path_is_remembered_by_its_ends_and_is_no_other() -> None:
    long, other = f"{FOLDER}/a/{'y' * 300}/z", f"{FOLDER}/b/{'y' * 300}/z"
    for text in (long, other, ASTRAL):
        short = shortened(text)
        assert is_short(short)
        assert short.startswith(text[:20])
        assert short.endswith(text[-20:])
        assert shortened(short) == short
    assert shortened(long) != shortened(other)
    assert len(digest(long)) == 16


def test_what_a_program_of_a_long_path_does_later_is_still_seen_but_it_is_not_believed() -> None:
    host = Host()
    child, _ = host.run(host.bash, f"/usr/bin/{'d' * 250}/{'e' * 250}/cat")
    process = host.engine.table.get(child)
    assert process is not None
    assert process.program.exe_name == "cat"
    assert not process.program.system_exe
    assert rules(host.open(child, "/etc/shadow")) == ["sensitive-file-read"]


def test_a_program_is_counted_as_itself_whether_or_not_its_path_is_long() -> None:
    host = Host()
    path = f"{FOLDER}/program"
    first = host.run(host.bash, path, system=False)[0]
    second = host.run(host.bash, path, system=False)[0]
    found = [host.engine.table.get(each) for each in (first, second)]
    assert [each.rarity for each in found if each is not None] == [25, 15]


def test_a_snapshot_in_between_changes_nothing() -> None:
    def act(host: Host) -> list[str]:
        child, alerts = host.run(host.bash, f"{FOLDER}/sh", system=False)
        alerts = [*alerts, *host.connect(child), *host.open(child, "/etc/shadow")]
        return [msgspec.json.encode(each).decode() for each in alerts]

    whole, halved = Host(), Host()
    assert act(whole) == act(halved)
    taken = snapshots.take(halved.engine)
    halved.engine = snapshots.restore(halved.engine.rules, taken)
    assert act(whole) == act(halved)


def test_a_table_of_many_words_forgets_whoever_ended_first() -> None:
    host = Host()
    host.engine = Engine(asks_for_command_lines())
    host.engine.process_batch(host.events)
    children = [host.run(host.bash, "/usr/bin/true", "x" * 2000)[0] for _ in range(6000)]
    known = [host.engine.table.get(each) is not None for each in children]
    assert not known[0]
    assert all(known[-3000:])
    assert host.engine.table.get(host.bash) is not None
