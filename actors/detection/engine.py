"""The detection engine: events in, alerts out.

No clock, no I/O, no randomness: time is the event's own, and the same events give the same alerts
byte for byte, on the endpoint, in a worker, or in a test.

Does not follow threads, open files or sockets; does not decide what to do about an alert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from actors.detection.alerts import Alert, event_text
from actors.detection.conditions import EVENT_TYPES
from actors.detection.correlator import Chain, Completed, Correlator, Link
from actors.detection.cuts import Cut, Cuts
from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    FloodEvent,
    ForkEvent,
    Identity,
    ListenEvent,
    OpenEvent,
    SeedEvent,
)
from actors.detection.groups import Groups
from actors.detection.observation import TYPE_OF, Callers, HostState, Observation, ObservedEvent
from actors.detection.plans import UNTIL, Hit, Plan, Plans
from actors.detection.process_table import ProcessTable
from actors.detection.processes import Process, TableStatistics
from actors.detection.raising import CUT, cut_alert, lineage_points, rule_alert, score_of
from actors.detection.repeats import Repeats
from actors.detection.rules import AnyRule, Rule, Sequence
from actors.detection.ruleset import RuleSet
from actors.detection.scoring import RarityTable, Score, ScoreSheet
from actors.detection.targets import Target, Targets
from actors.detection.text import digest

_INIT_PID = 1
_UNIX = 1
_NOTHING = ScoreSheet()
_MAX_TEXT = 128
_NO_PROGRAM = digest("")


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
    listens: int
    floods: int
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
        rules: What to look for; engines of many hosts may share it.
        hostname: Whose events these are, for exclusions.
        every_repeat: Return an alert for every repeat in a lineage, not only for those that are
            worth telling; all are counted.
    """

    def __init__(self, rules: RuleSet, *, hostname: str = "", every_repeat: bool = True) -> None:
        self._every_repeat = every_repeat
        settings = rules.settings
        self.rules = rules
        self._cuts = Cuts()
        self.cuts: list[Cut] = []
        """What was forgotten for lack of room in the batch taken last."""
        self.table = ProcessTable(
            max_processes=settings.max_processes,
            programs=rules.programs,
            passes=rules.pass_through.trusts,
            keep_command_lines=rules.needs_command_lines,
            is_boundary=self._is_boundary,
            cuts=self._cuts,
        )
        self.host = HostState(hostname, self.table, Callers())
        self.correlator = Correlator(
            rules.sequences,
            self.table,
            is_boundary=self._is_boundary,
            settings=settings,
            cuts=self._cuts,
        )
        self.table.on_spent = self.correlator.forget
        self.groups = Groups(
            rules.sequences, default_secs=settings.correlator_max_age_secs, cuts=self._cuts
        )
        self._targets = Targets((*settings.sensitive_files, *settings.guarded_files))
        self.rarity = RarityTable()
        self.repeats = Repeats()
        self._plans = tuple(rules.plans[event] for event in EVENT_TYPES)
        self._handlers: dict[type, _Handler] = {
            SeedEvent: self._on_seed,
            ForkEvent: self._on_fork,
            ExecEvent: self._on_exec,
            ExitEvent: self._on_exit,
            OpenEvent: self._on_open,
            ConnectEvent: self._on_connect,
            ListenEvent: self._on_listen,
            FloodEvent: self._on_flood,
        }
        self.counts = dict.fromkeys(self._handlers, 0)
        self.newest_ns = 0
        self.late = 0
        self.alerts = 0

    def process(self, event: AnyEvent) -> list[Alert]:
        """Take one event; return the alerts it raises."""
        return self.process_batch((event,))

    def process_batch(
        self,
        events: Iterable[AnyEvent],
        *,
        traced: list[Traced] | None = None,
        positions: list[int] | None = None,
        poisoned: list[tuple[int, str]] | None = None,
    ) -> list[Alert]:
        """Take events in their order; return the alerts they raise, in order.

        An event may be older than one before it: it counts with its own time.

        Args:
            events: Events.
            traced: Where to add the executions and connections, each with its process's
                ancestry as it was at that event.
            positions: Where to add, for each alert, which of the events decided it, from 0.
            poisoned: Where to add the events that make the engine fail, from 0, each with why;
                without it the first one ends the batch.
        """
        alerts: list[Alert] = []
        counts = self.counts
        handlers = self._handlers
        ancestry = self.table.ancestry
        cuts = self._cuts
        self.cuts = []
        for position, event in enumerate(events):
            kind = type(event)
            counts[kind] += 1
            if event.time_ns >= self.newest_ns:
                self.newest_ns = event.time_ns
            else:
                self.late += 1
            try:
                handlers[kind](event, alerts)
            except Exception as error:
                if poisoned is None:
                    raise
                poisoned.append((position, repr(error)))
            if cuts.pending:
                self._tell_cuts(event, alerts)
            if positions is not None and len(alerts) > len(positions):
                positions += [position] * (len(alerts) - len(positions))
            if traced is not None and (kind is ExecEvent or kind is ConnectEvent):
                traced.append((event, ancestry((event.pid, event.start_ns))))  # type: ignore[arg-type] # by its kind
        return alerts

    def score(self, identity: Identity, *, time_ns: int) -> Score | None:
        """Return the score of a process at a moment, None for an unknown process."""
        process = self.table.get(identity)
        return None if process is None else score_of(self.table, process, time_ns)

    def statistics(self) -> EngineStatistics:
        """Return what people watch."""
        return EngineStatistics(
            seeds=self.counts[SeedEvent],
            forks=self.counts[ForkEvent],
            execs=self.counts[ExecEvent],
            exits=self.counts[ExitEvent],
            opens=self.counts[OpenEvent],
            connects=self.counts[ConnectEvent],
            listens=self.counts[ListenEvent],
            floods=self.counts[FloodEvent],
            late=self.late,
            alerts=self.alerts,
            table=self.table.statistics(),
            windows=len(self.correlator) + len(self.groups),
            partial_matches_cut=self.correlator.cut + self.groups.cut,
            pairs=len(self.rarity),
            pairs_dropped=self.rarity.dropped,
            callers=len(self.host.callers),
            callers_dropped=self.host.callers.dropped,
        )

    def observe(self, event: ObservedEvent) -> Observation:
        """Take note of an event without judging it, and return it as rules see it."""
        launcher = initiator = None
        if isinstance(event, ExecEvent) and not event.error:
            launcher, initiator, process, program, contact = self.table.exec(event)
        elif isinstance(event, ExecEvent):
            launcher, initiator = self.table.launched_by(event)
            process = self.table.meet(event)
            program, contact = process.program, process.contact
        else:
            meet = self.table.connect if isinstance(event, ConnectEvent) else self.table.meet
            process = meet(event)  # type: ignore[arg-type] # by its kind
            program, contact = self.table.program_at(process, event), process.contact
        parent = self.table.parent(process)
        parent_program = None if parent is None else parent.program
        return Observation(
            event, process, program, self.host, launcher, initiator, contact, parent_program
        )

    # One handler per type of event

    def _on_seed(self, event: SeedEvent, _alerts: list[Alert]) -> None:
        process = self.table.seed(event)
        parent = self.table.parent(process)
        if parent is not None:
            # What already runs is not rare: the next start of this pair is its second.
            self.rarity.count(parent.program.digest, process.program.digest)

    def _on_fork(self, event: ForkEvent, _alerts: list[Alert]) -> None:
        self.table.fork(event)

    def _on_exit(self, event: ExitEvent, _alerts: list[Alert]) -> None:
        self.table.exit(event)

    def _on_exec(self, event: ExecEvent, alerts: list[Alert]) -> None:
        if event.error:
            return
        launcher, initiator, process, program, contact = self.table.exec(event)
        started_by = _NO_PROGRAM if launcher is None else launcher.digest
        rarity = self.rarity.count(started_by, program.digest)
        process.rarity = max(process.rarity, rarity)
        plans = self._plans[0]
        passed = plans.passing(event)
        if passed:
            parent = self.table.parent(process) if plans.needs_parents else None
            parent_program = None if parent is None else parent.program
            seen = Observation(
                event, process, program, self.host, launcher, initiator, contact, parent_program
            )
            self._judge(plans.of(passed, seen), seen, alerts)

    def _on_open(self, event: OpenEvent, alerts: list[Alert]) -> None:
        self._observe(event, self._plans[1], alerts)

    def _on_connect(self, event: ConnectEvent, alerts: list[Alert]) -> None:
        if event.af != _UNIX:
            self.table.connect(event)
        self._observe(event, self._plans[2], alerts)

    def _on_listen(self, event: ListenEvent, _alerts: list[Alert]) -> None:
        self.table.listen(event)

    def _on_flood(self, event: FloodEvent, alerts: list[Alert]) -> None:
        self._observe(event, self._plans[3], alerts)

    # Judgement

    def _observe(
        self, event: OpenEvent | ConnectEvent | FloodEvent, plans: Plans, alerts: list[Alert]
    ) -> None:
        passed = plans.passing(event)
        if not passed:
            return
        hits = plans.find(event) if plans.waits(passed) else None
        if hits == 0:
            return
        process = self.table.meet(event)
        program = self.table.program_at(process, event)
        parent = self.table.parent(process) if plans.needs_parents else None
        parent_program = None if parent is None else parent.program
        seen = Observation(
            event, process, program, self.host, None, None, process.contact, parent_program
        )
        self._judge(plans.of(passed, seen, hits), seen, alerts)

    def _judge(self, plans: Iterable[Plan], seen: Observation, alerts: list[Alert]) -> None:
        """Raise what the event shows alone, then what it completes."""
        if not plans or self.rules.ignored.trusts(seen.program):
            return
        sheet = seen.process.sheet or _NOTHING
        hits: list[Hit] = []
        for plan in plans:
            if plan.hit is not None:
                if plan.hit not in hits and plan.holds(seen):  # a step may have several conditions
                    hits.append(plan.hit)
                continue
            rule = self.rules.rules[plan.rule]
            # A rule seen here before, perhaps by another of its matches, raises nothing more,
            # unless it is about something that it was never about in this lineage.
            if rule.silent or (sheet.has(rule.id) and self._knows(rule, seen)):
                continue
            if plan.holds(seen):
                self._raise(rule, seen, alerts, self._targets.of_event(seen.event))
                sheet = seen.process.sheet or _NOTHING
        if hits:
            self._complete(hits, seen, alerts)

    def _complete(self, hits: list[Hit], seen: Observation, alerts: list[Alert]) -> None:
        """Take the steps an event makes; raise what it completes."""
        grouped = self.rules.grouped
        plain = hits if not grouped else [hit for hit in hits if hit[0] not in grouped]
        completed = self.correlator.advance(
            plain, seen.process, seen.event.time_ns, lambda: _link(seen.event)
        )
        if len(plain) < len(hits):
            link = _link(seen.event)
            for hit in hits:
                if hit[0] in grouped:
                    completed += self._group(hit, link, seen)
        for each in completed:
            sequence = self.rules.sequences[each.sequence]
            target = self._targets.of_links(each.links) if len(sequence.steps) > 1 else None
            sheet = seen.process.sheet or _NOTHING
            known = target is None or self.repeats.knows((sequence.id, seen.process.root), target)
            if not (known and sheet.has(sequence.id)):
                self._raise(sequence, seen, alerts, target, each.links)

    def _knows(self, rule: Rule, seen: Observation) -> bool:
        """Whether a rule has been in this lineage about what this event is about."""
        target = self._targets.of_event(seen.event)
        return self.repeats.knows((rule.id, seen.process.root), target)

    def _group(self, hit: Hit, link: Link, seen: Observation) -> list[Completed]:
        """Take a step of a sequence whose events share more than a lineage."""
        index, step = hit
        owner = self._owner(self.rules.sequences[index], seen.process)
        if step == UNTIL:
            self.groups.end(index, owner=owner)
            return []
        shared = self.rules.values(index, step, seen)
        if shared is None:
            return []
        values, value = shared
        links = self.groups.advance(
            index, step, link, seen.process, owner=owner, values=values, value=value
        )
        return [Completed(index, links)] if links else []

    def _owner(self, sequence: Sequence, process: Process) -> str:
        if sequence.scope == "host":
            return ""
        pid, start_ns = process.identity if sequence.scope == "process" else process.root
        return f"{pid}:{start_ns}"

    def _raise(
        self,
        matched: AnyRule,
        seen: Observation,
        alerts: list[Alert],
        target: Target | None,
        links: Chain = (),
    ) -> None:
        """Count it on the process, once, and in the lineage, and add its alert."""
        process, event = seen.process, seen.event
        if process.sheet is None:
            process.sheet = ScoreSheet()
        again = process.sheet.has(matched.id)
        if not again:
            process.sheet.add(
                matched.id,
                points=matched.points,
                sequence=isinstance(matched, Sequence),
                time_ns=event.time_ns,
                bonus=lineage_points(self.table, process) + process.rarity,
            )
        self.alerts += 1
        firing = self.repeats.count(
            (matched.id, process.root), target, owner=process.owner, time_ns=event.time_ns
        )
        if firing.told or (self._every_repeat and not again):
            window_secs = self.rules.window_secs(matched)
            alerts.append(
                rule_alert(self.table, matched, seen, links, firing, window_secs=window_secs)
            )

    def _tell_cuts(self, event: AnyEvent, alerts: list[Alert]) -> None:
        """Say what was forgotten for lack of room: for the evidence, and in an alert."""
        found, self._cuts.pending = self._cuts.pending, []
        self.cuts += found
        for cut in found:
            self.alerts += 1
            firing = self.repeats.count(
                (CUT.id, cut.root), None, owner=cut.owner, time_ns=event.time_ns
            )
            if firing.told:
                secs = self.rules.settings.correlator_max_age_secs
                alerts.append(cut_alert(self.table, cut, event, firing, window_secs=secs))

    def _is_boundary(self, process: Process) -> bool:
        """Whether what this process starts has nothing else in common."""
        program = process.program
        return (
            process.identity[0] == _INIT_PID
            or not program.exe
            or self.rules.launchers.trusts(program)
        )


def _link(event: ObservedEvent) -> Link:
    return Link(event.time_ns, event.pid, TYPE_OF[type(event)], event_text(event)[:_MAX_TEXT])
