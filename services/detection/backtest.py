"""Back-tests: what a rule would have said of the past, counted. Pure but for the clock it is given.

The events of each life of an agent go through the same engine as the live ones. A rule with
exclusions is run twice, with and without them, so that what they remove can be told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from actors.detection.alerts import Alert
from actors.detection.engine import Engine
from actors.detection.events import AnyEvent
from actors.detection.rules import AnyRule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.text import printable

EXAMPLES_MAX = 5
_HOSTS_MAX = 10_000

Hits: TypeAlias = Counter[tuple[str, str]]
"""By host and by day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One alert, as people read it."""

    host: str
    time: str
    rule: str
    detail: str
    ancestry: str


@dataclass(kw_only=True)
class Report:
    """What came of a back-test."""

    rules: Sequence[str]
    """Ids of the rules that were run."""
    events: int = 0
    alerts: int = 0
    """Repeats in one lineage included: they are one alert with a count, live."""
    told: int = 0
    """Alerts that people would have seen: the first of each rule in each lineage."""
    by_host_and_day: Hits = field(default_factory=Counter)
    """Of those told; of so many hosts and days at most as memory allows."""
    by_day: Counter[str] = field(default_factory=Counter)
    """Of those told, on all hosts."""
    excluded: int = 0
    """Told without the exclusions, and not with them."""
    examples: list[Example] = field(default_factory=list)
    first_unix_ms: int = 0
    last_unix_ms: int = 0
    engine_secs: float = 0.0
    """CPU the engine took."""

    @property
    def busiest_day(self) -> int:
        """Alerts told on the day with the most, on all hosts."""
        return max(self.by_day.values(), default=0)

    @property
    def us_per_event(self) -> float:
        """Engine CPU for one event, microseconds."""
        return self.engine_secs / self.events * 1e6 if self.events else 0.0

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "rules": list(self.rules),
            "events": self.events,
            "alerts": self.alerts,
            "told": self.told,
            "excluded": self.excluded,
            "busiest_day": self.busiest_day,
            "by_host_and_day": [
                {"host": host, "day": day, "alerts": count}
                for (host, day), count in sorted(self.by_host_and_day.items())
            ],
            "examples": [
                {name: getattr(each, name) for name in Example.__slots__} for each in self.examples
            ],
            "first_unix_ms": self.first_unix_ms,
            "last_unix_ms": self.last_unix_ms,
            "engine_us_per_event": round(self.us_per_event, 3),
        }


class BackTest:
    """Rules run over the past of many hosts.

    Args:
        rules: what to run.
        filters: the lists they name.
        cpu_secs: CPU time of this process.

    Raises:
        RuleError: a rule cannot work as written.
    """

    def __init__(
        self, rules: Sequence[AnyRule], filters: FilterSettings, *, cpu_secs: Callable[[], float]
    ) -> None:
        self.report = Report(rules=[each.id for each in rules])
        self._cpu_secs = cpu_secs
        self._rules = RuleSet(filters, rules)
        bare = [msgspec.structs.replace(each, exclusions=()) for each in rules]
        excluding = any(each.exclusions for each in rules)
        self._bare = RuleSet(filters, bare) if excluding else None
        self._engines: tuple[Engine, Engine | None] | None = None
        self._host, self._boot_unix_ns = "", 0

    def begin(self, host: str, boot_unix_ns: int) -> None:
        """Go on with another host, or another boot of it."""
        self._host, self._boot_unix_ns = host, boot_unix_ns
        bare = None if self._bare is None else Engine(self._bare, hostname=host)
        self._engines = (Engine(self._rules, hostname=host), bare)

    def take(self, events: Sequence[AnyEvent]) -> None:
        """Take events of the host, in their order."""
        if self._engines is None or not events:
            return
        engine, bare = self._engines
        began = self._cpu_secs()
        alerts = engine.process_batch(events)
        self.report.engine_secs += self._cpu_secs() - began
        self._count(events, alerts)
        if bare is not None:
            told = sum(alert.first for alert in bare.process_batch(events))
            self.report.excluded += told - sum(alert.first for alert in alerts)

    def _count(self, events: Sequence[AnyEvent], alerts: Sequence[Alert]) -> None:
        report = self.report
        report.events += len(events)
        first, last = self._unix_ms(events[0].time_ns), self._unix_ms(events[-1].time_ns)
        report.first_unix_ms = min(report.first_unix_ms or first, first)
        report.last_unix_ms = max(report.last_unix_ms, last)
        report.alerts += len(alerts)
        for alert in alerts:
            if not alert.first:
                continue
            report.told += 1
            moment = datetime.fromtimestamp(self._unix_ms(alert.time_ns) / 1000, UTC)
            key = (self._host, moment.strftime("%Y-%m-%d"))
            report.by_day[key[1]] += 1
            if key in report.by_host_and_day or len(report.by_host_and_day) < _HOSTS_MAX:
                report.by_host_and_day[key] += 1
            if len(report.examples) < EXAMPLES_MAX:
                time = moment.isoformat(timespec="milliseconds")
                report.examples.append(
                    Example(
                        host=self._host,
                        time=time,
                        rule=alert.rule,
                        detail=alert.detail,
                        ancestry=alert.ancestry,
                    )
                )

    def _unix_ms(self, time_ns: int) -> int:
        return (self._boot_unix_ns + time_ns) // 1_000_000


def render(report: Report, *, took_secs: float) -> str:
    """The report for people."""
    span_secs = (report.last_unix_ms - report.first_unix_ms) / 1000
    speed = f", {span_secs / took_secs:,.0f} times as fast as it happened" if took_secs else ""
    lines = [
        f"{len(report.rules)} rules over {report.events:,} events of {span_secs / 3600:,.1f} hours",
        f"  took {took_secs:.1f} s{speed}; the engine {report.us_per_event:.2f} us an event",
        (
            f"  alerts {report.told:,}, repeats {report.alerts - report.told:,},"
            f" removed by exclusions {report.excluded:,}; busiest day {report.busiest_day:,}"
        ),
    ]
    if report.by_host_and_day:
        lines.append("alerts by host and day:")
        lines += [
            f"  {count:>7,}  {day}  {printable(host)}"
            for (host, day), count in sorted(report.by_host_and_day.items())
        ]
    if report.examples:
        lines.append("examples:")
        for each in report.examples:
            lines += [
                f"  {each.time} {printable(each.host)}: {printable(each.rule)}",
                f"    {printable(each.detail)}",
                f"    {printable(each.ancestry)}",
            ]
    return "\n".join(lines) + "\n"
