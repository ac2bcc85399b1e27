"""The detection engine: events in, alerts out.

No clock, no I/O, no randomness: time is the event's own, and the same events give the same alerts
byte for byte, on the endpoint, in a worker, or in a test.

Does not follow threads, open files or sockets; does not decide what to do about an alert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from actors.detection.alerts import Alert, event_text, rule_detail, sequence_detail
from actors.detection.checks import Checks, Observation
from actors.detection.correlator import Correlator
from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    Identity,
    OpenEvent,
    SeedEvent,
)
from actors.detection.plans import Plan, Plans, check_unique
from actors.detection.process_table import Process, ProcessTable, TableStatistics
from actors.detection.rules import RULES, Rule
from actors.detection.scoring import (
    LINEAGE_DEPTH,
    RarityTable,
    Score,
    ScoreSheet,
    lineage_bonus,
    severity,
)
from actors.detection.sequences import SEQUENCES, Sequence
from actors.detection.settings import FilterSettings

_INIT_PID = 1
_NOTHING = ScoreSheet()

_TYPES = {ExecEvent: "exec", OpenEvent: "open", ConnectEvent: "connect"}

Traced: TypeAlias = tuple[ExecEvent | ConnectEvent, str]
"""An execution or a connection, and its process's ancestry at that moment."""
_Handler: TypeAlias = Callable[[Any, list[Alert]], None]


class EngineStatistics(msgspec.Struct, frozen=True):
    """What the engine saw, said and had to forget."""

    seeds: int
    forks: int
    execs: int
    """Failed ones included."""
    exits: int
    opens: int
    connects: int
    late: int
    """Events older than one seen before."""
    alerts: int
    table: TableStatistics
    """The process table's own numbers."""
    windows: int
    """Owners of partial matches of sequences now."""
    partial_matches_cut: int
    """Partial matches of sequences dropped for lack of room."""
    pairs: int
    """Parent and child programs whose starts are counted now."""
    pairs_dropped: int
    """Pairs forgotten for lack of room."""
    callers: int
    """Programs known to have used the network now."""
    callers_dropped: int
    """Callers forgotten for lack of room."""


class Engine:
    """Detection for one host.

    Args:
        settings: What is a shell, what is sensitive, whom to believe.
        rules: Rules to apply.
        sequences: Sequences to follow.

    Raises:
        RuleError: A rule or sequence cannot work as written.
    """

    def __init__(
        self,
        settings: FilterSettings,
        *,
        rules: tuple[Rule, ...] = RULES,
        sequences: tuple[Sequence, ...] = SEQUENCES,
    ) -> None:
        check_unique(rules, sequences)
        self.table = ProcessTable(max_processes=settings.max_processes)
        self._rules = rules
        self._sequences = sequences
        self._checks = checks = Checks(settings)
        self._ignored = checks.names("ignored_comms")
        self._launchers = checks.names("safe_shell_launchers")
        self._exec_plans = Plans("exec", checks, rules=rules, sequences=sequences)
        self._open_plans = Plans("open", checks, rules=rules, sequences=sequences)
        self._connect_plans = Plans("connect", checks, rules=rules, sequences=sequences)
        self._correlator = Correlator(
            sequences,
            self.table,
            is_boundary=self._is_boundary,
            settings=settings,
        )
        self._rarity = RarityTable()
        self._handlers: dict[type, _Handler] = {
            SeedEvent: self._on_seed,
            ForkEvent: self._on_fork,
            ExecEvent: self._on_exec,
            ExitEvent: self._on_exit,
            OpenEvent: self._on_open,
            ConnectEvent: self._on_connect,
        }
        self._counts = dict.fromkeys(self._handlers, 0)
        self._newest_ns = 0
        self._late = 0
        self._alerts = 0

    def process(self, event: AnyEvent) -> list[Alert]:
        """Take one event; return the alerts it raises."""
        return self.process_batch((event,))

    def process_batch(
        self, events: Iterable[AnyEvent], *, traced: list[Traced] | None = None
    ) -> list[Alert]:
        """Take events in their order; return the alerts they raise, in order.

        An event may be older than one before it: it counts with its own time.

        Args:
            events: Events.
            traced: Where to add the executions and connections, each with its process's
                ancestry as it was at that event.
        """
        alerts: list[Alert] = []
        counts = self._counts
        handlers = self._handlers
        ancestry = self.table.ancestry
        for event in events:
            kind = type(event)
            counts[kind] += 1
            if event.time_ns >= self._newest_ns:
                self._newest_ns = event.time_ns
            else:
                self._late += 1
            handlers[kind](event, alerts)
            if traced is not None and (kind is ExecEvent or kind is ConnectEvent):
                traced.append((event, ancestry((event.pid, event.start_ns))))  # type: ignore[arg-type] # by its kind
        self._alerts += len(alerts)
        return alerts

    def score(self, identity: Identity, *, time_ns: int) -> Score | None:
        """Return the score of a process at a moment, None for an unknown process."""
        process = self.table.get(identity)
        return None if process is None else self._score(process, time_ns)

    def statistics(self) -> EngineStatistics:
        """Return what people watch."""
        return EngineStatistics(
            seeds=self._counts[SeedEvent],
            forks=self._counts[ForkEvent],
            execs=self._counts[ExecEvent],
            exits=self._counts[ExitEvent],
            opens=self._counts[OpenEvent],
            connects=self._counts[ConnectEvent],
            late=self._late,
            alerts=self._alerts,
            table=self.table.statistics(),
            windows=len(self._correlator),
            partial_matches_cut=self._correlator.cut,
            pairs=len(self._rarity),
            pairs_dropped=self._rarity.dropped,
            callers=self._checks.callers,
            callers_dropped=self._checks.callers_dropped,
        )

    # One handler per type of event

    def _on_seed(self, event: SeedEvent, _alerts: list[Alert]) -> None:
        process = self.table.seed(event)
        parent = self.table.parent(process)
        if parent is not None:
            # What already runs is not rare: the next start of this pair is its second.
            self._rarity.count(parent.program.key, process.program.key)

    def _on_fork(self, event: ForkEvent, _alerts: list[Alert]) -> None:
        self.table.fork(event)

    def _on_exit(self, event: ExitEvent, _alerts: list[Alert]) -> None:
        self.table.exit(event)

    def _on_exec(self, event: ExecEvent, alerts: list[Alert]) -> None:
        if event.error:
            return
        launcher = self.table.launcher(event)
        process = self.table.exec(event)
        late = process.exec_ns != event.time_ns  # then the process runs something else by now
        program = self.table.program_of(event) if late else process.program
        started_by = "" if launcher is None else launcher.key
        rarity = self._rarity.count(started_by, program.key)
        process.rarity = max(process.rarity, rarity)
        seen = Observation(event, process, program, launcher)
        plans = self._exec_plans.of(self._exec_plans.passing(event), seen)
        if plans:
            self._judge(plans, seen, alerts)

    def _on_open(self, event: OpenEvent, alerts: list[Alert]) -> None:
        passed = self._open_plans.passing(event)
        if passed:
            seen = self._observe(event)
            self._judge(self._open_plans.of(passed, seen), seen, alerts)

    def _on_connect(self, event: ConnectEvent, alerts: list[Alert]) -> None:
        passed = self._connect_plans.passing(event)
        if passed:
            seen = self._observe(event)
            self._judge(self._connect_plans.of(passed, seen), seen, alerts)

    # Judgement

    def _observe(self, event: OpenEvent | ConnectEvent) -> Observation:
        process = self.table.meet(event)
        return Observation(event, process, self.table.program_at(process, event))

    def _judge(self, plans: Iterable[Plan], seen: Observation, alerts: list[Alert]) -> None:
        """Raise what the event shows alone, then what it completes."""
        if self._ignored.trusts(seen.program):
            return
        sheet = seen.process.sheet or _NOTHING
        hits = []
        for plan in plans:
            if plan.hit is not None:
                if plan.holds(seen):
                    hits.append(plan.hit)
            elif not sheet.has(plan.rule) and plan.holds(seen):
                rule = self._rules[plan.rule]
                detail = rule_detail(rule.detail, seen)
                alerts.append(self._raise(rule, plan.rule, detail, seen))
        if not hits:
            return
        completed = self._correlator.advance(
            hits,
            seen.process,
            time_ns=seen.event.time_ns,
            type_=_TYPES[type(seen.event)],
            text=event_text(seen.event),
        )
        for each in completed:
            number = len(self._rules) + each.sequence
            if not (seen.process.sheet or _NOTHING).has(number):
                detail = sequence_detail(each.links)
                alerts.append(self._raise(self._sequences[each.sequence], number, detail, seen))

    def _raise(
        self, matched: Rule | Sequence, number: int, detail: str, seen: Observation
    ) -> Alert:
        process, event = seen.process, seen.event
        if process.sheet is None:
            process.sheet = ScoreSheet()
        bonuses = self._lineage(process) + process.rarity
        process.sheet.add(
            number,
            points=matched.points,
            sequence=isinstance(matched, Sequence),
            time_ns=event.time_ns,
            bonus=bonuses,
        )
        score = self._score(process, event.time_ns)
        return Alert(
            time_ns=event.time_ns,
            pid=event.pid,
            start_ns=event.start_ns,
            uid=event.uid,
            comm=event.comm,
            exe=seen.program.exe,
            system_exe=seen.program.system_exe,
            rule=matched.label,
            rule_id=matched.id,
            techniques=matched.techniques,
            detail=detail,
            ancestry=self.table.ancestry(process.identity),
            score=score.total,
            severity=severity(score.total),
            base_score=score.base,
            lineage_bonus=score.lineage,
            rarity_bonus=score.rarity,
            sequence_bonus=score.sequence,
            event=_TYPES[type(event)],
        )

    def _score(self, process: Process, time_ns: int) -> Score:
        sheet = process.sheet or _NOTHING
        return sheet.at(time_ns, lineage=self._lineage(process), rarity=process.rarity)

    def _lineage(self, process: Process) -> int:
        return lineage_bonus(len(self.table.ancestors(process, depth=LINEAGE_DEPTH)))

    def _is_boundary(self, process: Process) -> bool:
        """Whether what this process starts has nothing else in common."""
        program = process.program
        return (
            process.identity[0] == _INIT_PID or not program.exe or self._launchers.trusts(program)
        )
