from actors.agent.evidence import EvidenceLog
from transport.messages import Gap


def log(*, since_ms: int | None = None) -> EvidenceLog:
    return EvidenceLog(watching_since_unix_ms=since_ms)


def lost(count: int) -> dict[str, dict[str, int]]:
    return {"open": {"lost": count}, "exec": {"lost": 0}}


def test_without_a_loss_evidence_is_complete() -> None:
    evidence = log()
    assert evidence.compare(lost(0), dropped=0, now_unix_ms=100_000) == []
    assert evidence.compare(lost(0), dropped=0, now_unix_ms=101_000) == []
    assert evidence.at(101_000, window_ms=30_000) == "complete"


def test_a_loss_is_a_gap_from_one_comparison_to_the_next() -> None:
    evidence = log()
    evidence.compare(lost(5), dropped=2, now_unix_ms=100_000)
    gap = Gap(100_000, 101_000, "lost_in_kernel_open", 7)
    assert evidence.compare(lost(12), dropped=2, now_unix_ms=101_000) == [gap]
    assert evidence.at(110_000, window_ms=30_000) == [gap]
    assert evidence.at(131_000, window_ms=30_000) == "complete"
    assert evidence.at(99_000, window_ms=30_000) == "complete"


def test_what_the_agent_dropped_is_a_gap_too() -> None:
    evidence = log()
    evidence.compare(lost(0), dropped=0, now_unix_ms=100_000)
    evidence.compare(lost(0), dropped=3, now_unix_ms=100_050)
    assert evidence.at(100_060, window_ms=30_000) == [Gap(100_000, 100_050, "dropped_by_agent", 3)]


def test_soon_after_a_start_the_window_is_not_all_watched() -> None:
    evidence = log(since_ms=100_000)
    assert evidence.at(120_000, window_ms=30_000) == [Gap(0, 100_000, "not_watching")]
    assert evidence.at(130_001, window_ms=30_000) == "complete"


def test_gaps_are_bounded() -> None:
    evidence = log()
    for number in range(1000):
        evidence.compare(lost(number), dropped=0, now_unix_ms=100_000 + 2 * number)
        evidence.compare(lost(number), dropped=0, now_unix_ms=100_001 + 2 * number)
    found = evidence.at(102_000, window_ms=30_000)
    assert len(found) == 64


def test_a_loss_that_goes_on_is_one_gap_and_pushes_out_no_other() -> None:
    evidence = log(since_ms=99_000)
    for number in range(1000):
        evidence.compare(lost(number), dropped=0, now_unix_ms=100_000 + number)
    assert evidence.at(101_000, window_ms=30_000) == [
        Gap(0, 99_000, "not_watching"),
        Gap(100_000, 100_999, "lost_in_kernel_open", 999),
    ]


def test_a_loss_that_goes_on_for_long_is_as_many_gaps_as_it_has_spans() -> None:
    evidence = log()
    for number in range(200):
        evidence.compare(lost(number), dropped=0, now_unix_ms=100_000 + 100 * number)
    assert evidence.at(120_000, window_ms=30_000) == [
        Gap(100_000, 110_000, "lost_in_kernel_open", 100),
        Gap(110_000, 119_900, "lost_in_kernel_open", 99),
    ]
    assert len(evidence.at(120_000, window_ms=5_000)) == 1


def test_what_was_throttled_is_a_gap_too() -> None:
    evidence = log()
    for count in (5, 12):
        evidence.compare(
            {"exec": {"lost": 0, "throttled": count}}, dropped=0, now_unix_ms=100_000 + count
        )
    gap = Gap(100_005, 100_012, "throttled_in_kernel_exec", 7)
    assert evidence.at(100_012, window_ms=30_000) == [gap]


def test_a_longer_look_back_finds_older_gaps() -> None:
    evidence = log(since_ms=100_000)
    assert evidence.at(130_001, window_ms=30_000) == "complete"
    assert evidence.at(130_001, window_ms=60_000) == [Gap(0, 100_000, "not_watching")]
