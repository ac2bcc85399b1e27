"""Follows ordered and counted sequences through lineages; `groups.py` follows all others.

A window belongs to an *owner*: the process that did the first step, and the process that started
it, unless that one is a boundary (init, a trusted launcher of shells, or a program we do not know):
services under init and sessions under sshd have nothing to do with each other. A later event
belongs to every owner that is its process or one of its ancestors. So two commands typed into one
shell correlate; two sessions do not.

A counted sequence has one owner per event, the starter (or the process itself under a boundary),
and every event beneath an owner counts.

A lineage has a window of its own too, by its root, which every process inherits at its fork. It
takes part where the ancestors are too many or no longer known: no number of forks ends a sequence.

For each owner and step only the latest partial match is kept. It expires last, so whatever an
older one could still complete, it completes too; nobody can push it out by doing more of the same.
When there is no room, windows of processes that have ended without children go first, then those
of the user and the lineage with most; such a cut is noted, for what it began may be missed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

import msgspec

from actors.detection.cuts import Cuts, Lost
from actors.detection.events import Identity
from actors.detection.fair import FairTable, Owner
from actors.detection.plans import Hit
from actors.detection.process_table import ProcessTable
from actors.detection.processes import Process
from actors.detection.rules import Sequence
from actors.detection.settings import FilterSettings


class Link(msgspec.Struct, frozen=True, order=True, gc=False):
    """One event of a partial match."""

    time_ns: int
    pid: int
    type: str
    text: str


Chain: TypeAlias = tuple[Link, ...]


class Completed(msgspec.Struct, frozen=True):
    """A sequence that an event completed."""

    sequence: int
    links: Chain


class Window(msgspec.Struct):
    """The partial matches of one owner: (sequence, steps done) to its links, latest last."""

    partials: dict[Hit, Chain]
    owner: Owner
    """Whose act it was that began it."""
    program: str
    """What that process ran, printable."""
    newest_ns: int = 0

    @property
    def weight(self) -> int:
        """One of many."""
        return 1


class Correlator:
    """Partial matches of all sequences, bounded in number and age."""

    def __init__(
        self,
        sequences: tuple[Sequence, ...],
        table: ProcessTable,
        *,
        is_boundary: Callable[[Process], bool],
        settings: FilterSettings,
        cuts: Cuts,
    ) -> None:
        self.cut = 0
        """Partial matches dropped for lack of room."""
        self._sequences = sequences
        self._table = table
        self._is_boundary = is_boundary
        self._max_events = settings.correlator_max_events
        self._cuts = cuts
        self._window_ns = tuple(
            (s.window_secs or settings.correlator_max_age_secs) * 1_000_000_000 for s in sequences
        )
        self._following = frozenset(
            (index, step)
            for index, each in enumerate(sequences)
            for step in range(1, len(each.steps))
        )
        """Steps that need one before."""
        self._begun_ns: dict[Hit, int] = {}
        """When the latest of the partial matches began that a step was ever kept for."""
        spans = zip(self._window_ns, sequences, strict=True)
        self._longest_ns = max((span for span, each in spans if each.plain), default=0)
        self._table_of_windows: FairTable[Identity, Window] = FairTable(settings.max_processes)
        self.windows = self._table_of_windows.entries
        """By owner, the one used longest ago first; that of a lineage under its root's negative."""
        self.newest_ns = 0

    def __len__(self) -> int:
        return len(self.windows)

    def adopt(self, owner: Identity, window: Window) -> None:
        """Go on with a window of a snapshot."""
        self._table_of_windows.put(owner, window)
        for key, links in window.partials.items():
            self._note_begun(key, links)

    def advance(
        self, hits: Collection[Hit], process: Process, time_ns: int, link_of: Callable[[], Link]
    ) -> list[Completed]:
        """Take the steps that one event makes; return what it completes, each sequence once.

        Args:
            hits: Steps whose conditions the event met; of one sequence, later steps first, so
                that no event is two steps of one match.
            process: Who did it.
            time_ns: The event's own time.
            link_of: Makes the event's link, which most events do not need.
        """
        hits = [hit for hit in hits if hit not in self._following or self._awaits(hit, time_ns)]
        if not hits:
            return []  # later steps, and nothing waits for them: so it is with most executions
        self.newest_ns = max(self.newest_ns, time_ns)
        self._expire()
        lineage = [process, *self._table.ancestors(process)]
        above = [owner.identity for owner in lineage]
        deep = not _is_whole(lineage)
        if deep:
            above.append(_whole(process))
        windows = [(each, self.windows[each]) for each in above if each in self.windows]
        link = link_of()
        completed = []
        for sequence, step in hits:
            if self._sequences[sequence].count > 1:
                done = self._count(sequence, link, lineage, windows, deep=deep)
            elif step:
                done = self._follow(sequence, step, link, process, windows)
            else:
                for owner in (*self._owners(lineage), _whole(process)):
                    self._reach(owner, (sequence, 1), (link,), process)
                continue
            if done:
                completed.append(Completed(sequence, done))
        return completed

    def _awaits(self, hit: Hit, time_ns: int) -> bool:
        """Whether a partial match may still be young enough for a later step."""
        begun_ns = self._begun_ns.get(hit)
        return begun_ns is not None and time_ns - begun_ns <= self._window_ns[hit[0]]

    def _note_begun(self, key: Hit, links: Chain) -> None:
        self._begun_ns[key] = max(links[0].time_ns, self._begun_ns.get(key, 0))

    def _follow(
        self,
        sequence: int,
        step: int,
        link: Link,
        process: Process,
        windows: list[tuple[Identity, Window]],
    ) -> Chain:
        """Take a later step in every window that waits for it."""
        last = len(self._sequences[sequence].steps) - 1
        done: Chain = ()
        for owner, window in windows:
            links = window.partials.get((sequence, step))
            if links is None or not self._fits(sequence, links, link):
                continue
            if step < last:
                for each in (owner, _whole(process)):
                    self._reach(each, (sequence, step + 1), (*links, link), process)
                continue
            done = done or (*links, link)
            self._begin_anew(sequence, window)
        whole = self.windows.get(_whole(process)) if done else None
        if whole is not None:
            self._begin_anew(sequence, whole)
        return done

    def _begin_anew(self, sequence: int, window: Window) -> None:
        for steps_done in range(1, len(self._sequences[sequence].steps)):
            window.partials.pop((sequence, steps_done), None)

    def _count(
        self,
        sequence: int,
        link: Link,
        lineage: list[Process],
        windows: list[tuple[Identity, Window]],
        *,
        deep: bool,
    ) -> Chain:
        """Count one more in the starter's window and in every window above."""
        key = (sequence, 1)
        counting = {identity: None for identity, window in windows if key in window.partials}
        counting[self._owners(lineage)[-1]] = None
        if deep:
            counting[_whole(lineage[0])] = None
        done: Chain = ()
        for identity in counting:
            window = self.windows.get(identity)
            kept = () if window is None else window.partials.get(key, ())
            in_order = not kept or kept[-1] <= link
            links = (*kept, link) if in_order else tuple(sorted((*kept, link)))
            oldest_ns = links[-1].time_ns - self._window_ns[sequence]
            if links[0].time_ns < oldest_ns:
                links = tuple(each for each in links if each.time_ns >= oldest_ns)
            if len(links) < self._sequences[sequence].count:
                self._keep(identity, key, links, lineage[0])
                continue
            done = done or links
            if window is not None:
                window.partials.pop(key, None)
        return done

    def _owners(self, lineage: list[Process]) -> list[Identity]:
        """Return who owns what the first of the lineage begins: itself, and its starter."""
        return [
            owner.identity
            for owner in lineage[:2]
            if owner is lineage[0] or not self._is_boundary(owner)
        ]

    def _fits(self, sequence: int, links: Chain, link: Link) -> bool:
        return (
            links[-1].time_ns <= link.time_ns
            and link.time_ns - links[0].time_ns <= self._window_ns[sequence]
        )

    def _reach(self, owner: Identity, key: Hit, links: Chain, process: Process) -> None:
        """Keep the partial match of an ordered sequence that will expire last."""
        window = self.windows.get(owner)
        kept = None if window is None else window.partials.get(key)
        if kept is None or kept[0].time_ns <= links[0].time_ns:
            self._keep(owner, key, links, process)

    def _keep(self, owner: Identity, key: Hit, links: Chain, process: Process) -> None:
        """Replace the partial match of an owner; drop its oldest ones if it has too many."""
        window = self.windows.get(owner)
        if window is None:
            window = Window({}, (process.uid, process.root), process.program.shown)
            self._table_of_windows.put(owner, window)
            gone = self._table_of_windows.make_room(is_spent=self._is_spent)
            self._note_cut(_lost(each) for _, each in gone)
        else:
            self.windows.move_to_end(owner)
        window.newest_ns = max(window.newest_ns, links[-1].time_ns)
        self._note_begun(key, links)
        window.partials.pop(key, None)
        window.partials[key] = links
        while sum(map(len, window.partials.values())) > self._max_events:
            dropped = window.partials.pop(next(iter(window.partials)))
            self._note_cut([Lost(window.owner, window.program, dropped[0].time_ns)])

    def forget(self, owner: Identity) -> None:
        """Forget the window of a process that has ended, with all that it started."""
        self._table_of_windows.pop(owner)

    def _is_spent(self, owner: Identity) -> bool:
        """Whether nothing can follow on what is in an owner's window."""
        return self._table.has_ended(owner) or not self.windows[owner].partials

    def _note_cut(self, lost: Iterable[Lost]) -> None:
        self.cut += self._cuts.note("partial_matches_cut", lost, time_ns=self.newest_ns)

    def _expire(self) -> None:
        oldest_ns = self.newest_ns - self._longest_ns
        while self.windows:
            owner, window = next(iter(self.windows.items()))
            if window.newest_ns >= oldest_ns:
                return
            self._table_of_windows.pop(owner)


def _whole(process: Process) -> Identity:
    """Under what the window of a whole lineage is kept: no process has such a pid."""
    pid, start_ns = process.root
    return (-pid, start_ns)


def _is_whole(lineage: list[Process]) -> bool:
    """Whether a lineage is known up to its root."""
    root = lineage[0].root
    return lineage[-1].parent is None or any(each.identity == root for each in lineage)


def _lost(window: Window) -> Lost:
    since_ns = min((links[0].time_ns for links in window.partials.values()), default=1 << 63)
    return Lost(window.owner, window.program, since_ns, len(window.partials))
