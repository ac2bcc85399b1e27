"""How alerts are made: of what a rule or a sequence found, and of what had to be forgotten."""

from __future__ import annotations

from actors.detection.alerts import Alert, rule_detail, sequence_detail, with_left_out
from actors.detection.correlator import Chain
from actors.detection.cuts import Cut
from actors.detection.events import AnyEvent, LineageProcess
from actors.detection.observation import TYPE_OF, Observation
from actors.detection.process_table import ProcessTable
from actors.detection.processes import Process
from actors.detection.repeats import Firing
from actors.detection.rules import AnyRule, Described, Rule
from actors.detection.scoring import LINEAGE_DEPTH, Score, ScoreSheet, lineage_bonus, severity

CUT = Described(
    id="detection-state-cut",
    label="T1562 [Detection state cut]",
    title="Detection state cut",
    description="So much began that detection had to forget some of it: what it was may be missed.",
    author="Lavender",
    level="high",
    techniques=("T1562",),
)
"""What an alert about forgotten state says of itself."""
_NOTHING = ScoreSheet()
_FORGOTTEN = {
    "partial_matches_cut": "partial matches of sequences",
    "processes_forgotten": "running processes",
}


def lineage_points(table: ProcessTable, process: Process) -> int:
    """Return what the length of a process's lineage adds to its score."""
    return lineage_bonus(len(table.ancestors(process, depth=LINEAGE_DEPTH)))


def score_of(table: ProcessTable, process: Process, time_ns: int) -> Score:
    """Return the score of a process at a moment."""
    sheet = process.sheet or _NOTHING
    return sheet.at(time_ns, lineage=lineage_points(table, process), rarity=process.rarity)


def rule_alert(  # noqa: PLR0913 - what one alert is made of
    table: ProcessTable,
    matched: AnyRule,
    seen: Observation,
    links: Chain,
    firing: Firing,
    *,
    window_secs: int,
) -> Alert:
    """Return the alert of a rule, or of a sequence and the events that completed it."""
    process, event = seen.process, seen.event
    score = score_of(table, process, event.time_ns)
    detail = (
        rule_detail(matched.detail, seen) if isinstance(matched, Rule) else sequence_detail(links)
    )
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
        detail=with_left_out(detail, 0 if firing.target else firing.left_out),
        ancestry=table.ancestry(process.identity),
        score=score.total,
        severity=severity(score.total),
        base_score=score.base,
        lineage_bonus=score.lineage,
        rarity_bonus=score.rarity,
        sequence_bonus=score.sequence,
        event=TYPE_OF[type(event)],
        level=matched.level,
        author=matched.author,
        references=matched.references,
        lineage=process.root,
        window_secs=window_secs,
        count=firing.count,
        first=firing.first,
        told=firing.told,
        target=firing.target,
        targets=firing.targets,
        processes=_lineage(table, process),
    )


def cut_alert(
    table: ProcessTable, cut: Cut, event: AnyEvent, firing: Firing, *, window_secs: int
) -> Alert:
    """Return the alert that says what was forgotten, and because of whom.

    It is about the process of the event that was one too many, if that is theirs, or else about
    the first of their lineage.
    """
    uid, root = cut.owner
    process = table.get(event.identity)
    if process is None or process.owner != cut.owner:
        process = table.get(root)
    program = None if process is None else process.program
    pid, start_ns = root if process is None else process.identity
    total = 0 if process is None else score_of(table, process, event.time_ns).total
    who = "an unknown user" if uid < 0 else f"user {uid}"
    return Alert(
        time_ns=event.time_ns,
        pid=pid,
        start_ns=start_ns,
        uid=max(0, uid),
        comm="" if program is None else program.comm,
        exe="" if program is None else program.exe,
        system_exe=program is not None and program.system_exe,
        rule=CUT.label,
        rule_id=CUT.id,
        techniques=CUT.techniques,
        detail=f"for lack of room {cut.count} {_FORGOTTEN[cut.kind]} were forgotten,"
        f" most of them of {who}, who runs {cut.program or 'an unnamed program'}",
        ancestry=table.ancestry((pid, start_ns)),
        score=total,
        severity=severity(total),
        base_score=0,
        lineage_bonus=0,
        rarity_bonus=0,
        sequence_bonus=0,
        event=cut.kind,
        level=CUT.level,
        author=CUT.author,
        lineage=root,
        window_secs=window_secs,
        count=firing.count,
        first=firing.first,
        told=firing.told,
        processes=() if process is None else _lineage(table, process),
    )


def _lineage(table: ProcessTable, process: Process) -> tuple[LineageProcess, ...]:
    return tuple(
        LineageProcess(*each.identity, *(each.parent or (0, 0)), each.program.shown)
        for each in (*reversed(table.ancestors(process)), process)
    )
