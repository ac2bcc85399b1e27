import pytest

from actors.detection.scoring import RarityTable, ScoreSheet, lineage_bonus, severity
from actors.detection.testing import Host

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (0, "INFO"),
        (49, "INFO"),
        (50, "WARNING"),
        (99, "WARNING"),
        (100, "HIGH"),
        (149, "HIGH"),
        (150, "CRITICAL"),
        (1000, "CRITICAL"),
    ],
)
def test_severities(score: int, word: str) -> None:
    assert severity(score) == word


def test_lineage_bonus() -> None:
    assert [lineage_bonus(count) for count in range(8)] == [0, 0, 5, 10, 15, 20, 20, 20]


def test_rarity_bonus() -> None:
    table = RarityTable()
    assert [table.count(b"a", b"b") for _ in range(8)] == [25, 15, 15, 8, 8, 8, 0, 0]
    assert table.count(b"b", b"a") == 25


def test_rare_pairs_are_bounded_and_the_least_recent_goes() -> None:
    table = RarityTable(max_pairs=2)
    table.count(b"a", b"1")
    table.count(b"a", b"2")
    table.count(b"a", b"1")
    table.count(b"a", b"3")
    assert (len(table), table.dropped) == (2, 1)
    assert table.count(b"a", b"1") == 15
    assert table.count(b"a", b"2") == 25


def sheet(points: int, *, sequence: bool = False) -> ScoreSheet:
    made = ScoreSheet()
    made.add("0", points=points, sequence=sequence, time_ns=0, bonus=0)
    return made


@pytest.mark.parametrize(
    ("seconds", "total"),
    [(-5, 40), (0, 40), (59.999, 40), (60, 30), (119, 30), (120, 20), (240, 0), (9999, 0)],
)
def test_decay(seconds: float, total: int) -> None:
    assert sheet(40).at(int(seconds * SECOND), lineage=0, rarity=0).total == total


def test_a_new_rule_stops_the_loss_but_does_not_give_back() -> None:
    made = sheet(40)
    made.add("1", points=10, sequence=False, time_ns=60 * SECOND, bonus=0)
    assert made.at(119 * SECOND, lineage=0, rarity=0).total == 40
    assert made.at(120 * SECOND, lineage=0, rarity=0).total == 30


def test_no_more_is_lost_than_there_was() -> None:
    made = sheet(40)
    made.add("1", points=10, sequence=False, time_ns=99_999 * SECOND, bonus=0)
    assert made.at(99_999 * SECOND, lineage=0, rarity=0).total == 10


def test_parts_add_up() -> None:
    score = sheet(60, sequence=True).at(0, lineage=15, rarity=8)
    assert (score.total, score.base, score.sequence) == (103, 60, 20)
    assert (score.lineage, score.rarity) == (15, 8)


def test_an_alert_carries_the_score_of_its_process() -> None:
    host = Host()
    cat, _ = host.run(host.bash, "/usr/bin/cat")
    (first,) = host.open(cat, "/etc/shadow")
    assert (first.base_score, first.lineage_bonus, first.rarity_bonus) == (35, 10, 25)
    assert (first.sequence_bonus, first.score, first.severity) == (0, 70, "WARNING")
    host.wait(60)
    (second,) = host.connect(cat, "127.0.0.1", 4444)
    assert (second.base_score, second.score, second.severity) == (80, 105, "HIGH")


def test_running_something_common_later_wins_nothing() -> None:
    host = Host()
    for _ in range(10):
        host.run(host.bash, "/usr/bin/ls")
        host.exec(host.run(host.bash, "/usr/bin/env")[0], "/usr/bin/ls")
    child, _ = host.run(host.bash, "/tmp/rare", system=False)
    host.exec(child, "/usr/bin/env")
    score = host.engine.score(child, time_ns=host.now_ns)
    assert score is not None
    assert score.rarity == 25


def test_what_was_running_is_not_rare() -> None:
    host = Host()
    child, _ = host.run(host.sshd, "/usr/bin/bash")
    score = host.engine.score(child, time_ns=host.now_ns)
    assert score is not None
    assert (score.rarity, score.total) == (15, 20)


def test_an_unknown_process_has_no_score() -> None:
    assert Host().engine.score((1, 2), time_ns=0) is None
