"""Back-tests, counted."""

import pytest

from actors.detection.builtin import builtin_rules
from actors.detection.settings import FilterSettings
from services.detection import backtest
from services.detection.backtest import EXAMPLES_MAX, BackTest, render
from tests.services.detection.test_host_engine import opening

DAY_NS = 86_400 * 10**9


def back_tested(hosts: int) -> BackTest:
    ticks = iter(range(10_000))
    rules = [each for each in builtin_rules() if each.id == "sensitive-file-read"]
    made = BackTest(rules, FilterSettings(), cpu_secs=lambda: float(next(ticks)))
    for number in range(hosts):
        made.begin(f"host-{number}", DAY_NS * (1 + number % 2))
        made.take(opening(3).events)
    return made


def test_only_the_first_of_a_lineage_is_told() -> None:
    report = back_tested(1).report
    assert (report.alerts, report.told, report.busiest_day) == (3, 1, 1)
    assert report.by_host_and_day == {("host-0", "1970-01-02"): 1}
    assert report.engine_secs == 1


def test_examples_are_few_and_days_are_told_apart() -> None:
    report = back_tested(9).report
    assert (report.told, len(report.examples), report.busiest_day) == (9, EXAMPLES_MAX, 5)


def test_the_busiest_day_counts_hosts_that_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "_HOSTS_MAX", 2)
    report = back_tested(9).report
    assert (len(report.by_host_and_day), report.busiest_day) == (2, 5)


def test_events_without_a_host_are_passed_over() -> None:
    made = BackTest([], FilterSettings(), cpu_secs=lambda: 0.0)
    made.take(opening(1).events)
    assert made.report.events == 0
    assert "0 rules over 0 events" in render(made.report, took_secs=0)
