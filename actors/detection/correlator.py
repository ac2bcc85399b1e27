"""Follows ordered and counted sequences through lineages; `groups.py` follows all others.

A window belongs to an *owner*: the process that did the first step, and the process that started
it, unless that one is a boundary (init, a trusted launcher of shells, or a program we do not know):
services under init and sessions under sshd have nothing to do with each other. A later event
belongs to every owner that is its process or one of its ancestors. So two commands typed into one
shell correlate; two sessions do not.

A counted sequence has one owner per event, the starter (or the process itself under a boundary),
and every event beneath an owner counts.

For each owner and step only the latest partial match is kept. It expires last, so whatever an
older one could still complete, it completes too; nobody can push it out by doing more of the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TypeAlias

import msgspec

from actors.detection.events import Identity
from actors.detection.plans import Hit
from actors.detection.process_table import ProcessTable
from actors.detection.processes import Process
from actors.detection.rules import Sequence
from actors.detection.settings import FilterSettings

_DEPTH = 16


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
    newest_ns: int = 0


class Correlator:
    """Partial matches of all sequences, bounded in number and age."""

    def __init__(
        self,
        sequences: tuple[Sequence, ...],
        table: ProcessTable,
        *,
        is_boundary: Callable[[Process], bool],
        settings: FilterSettings,
    ) -> None:
        self.cut = 0
        """Partial matches dropped for lack of room."""
        self._sequences = sequences
        self._table = table
        self._is_boundary = is_boundary
        self._max_events = settings.correlator_max_events
        self._max_owners = settings.max_processes
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
        self.windows: OrderedDict[Identity, Window] = OrderedDict()
        self.newest_ns = 0

    def __len__(self) -> int:
        return len(self.windows)

    def adopt(self, owner: Identity, window: Window) -> None:
        """Go on with a window of a snapshot."""
        self.windows[owner] = window
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
        lineage = [process, *self._table.ancestors(process, depth=_DEPTH)]
        windows = [
            (owner.identity, window)
            for owner in lineage
            if (window := self.windows.get(owner.identity)) is not None
        ]
        link = link_of()
        completed = []
        for sequence, step in hits:
            if self._sequences[sequence].count > 1:
                done = self._count(sequence, link, lineage, windows)
            elif step:
                done = self._follow(sequence, step, link, windows)
            else:
                for owner in self._owners(lineage):
                    self._reach(owner, (sequence, 1), (link,))
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
        self, sequence: int, step: int, link: Link, windows: list[tuple[Identity, Window]]
    ) -> Chain:
        """Take a later step in every window that waits for it."""
        last = len(self._sequences[sequence].steps) - 1
        done: Chain = ()
        for owner, window in windows:
            links = window.partials.get((sequence, step))
            if links is None or not self._fits(sequence, links, link):
                continue
            if step < last:
                self._reach(owner, (sequence, step + 1), (*links, link))
                continue
            done = done or (*links, link)
            for steps_done in range(1, last + 1):
                window.partials.pop((sequence, steps_done), None)
        return done

    def _count(
        self,
        sequence: int,
        link: Link,
        lineage: list[Process],
        windows: list[tuple[Identity, Window]],
    ) -> Chain:
        """Count one more in the starter's window and in every window above."""
        key = (sequence, 1)
        owner = self._owners(lineage)[-1]
        counting = {identity: None for identity, window in windows if key in window.partials}
        done: Chain = ()
        for identity in {**counting, owner: None}:
            window = self.windows.get(identity)
            kept = () if window is None else window.partials.get(key, ())
            in_order = not kept or kept[-1] <= link
            links = (*kept, link) if in_order else tuple(sorted((*kept, link)))
            oldest_ns = links[-1].time_ns - self._window_ns[sequence]
            if links[0].time_ns < oldest_ns:
                links = tuple(each for each in links if each.time_ns >= oldest_ns)
            if len(links) < self._sequences[sequence].count:
                self._keep(identity, key, links)
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

    def _reach(self, owner: Identity, key: Hit, links: Chain) -> None:
        """Keep the partial match of an ordered sequence that will expire last."""
        window = self.windows.get(owner)
        kept = None if window is None else window.partials.get(key)
        if kept is None or kept[0].time_ns <= links[0].time_ns:
            self._keep(owner, key, links)

    def _keep(self, owner: Identity, key: Hit, links: Chain) -> None:
        """Replace the partial match of an owner; drop its oldest ones if it has too many."""
        window = self.windows.get(owner)
        if window is None:
            window = self.windows[owner] = Window({})
            if len(self.windows) > self._max_owners:
                _, dropped = self.windows.popitem(last=False)
                self.cut += len(dropped.partials)
        else:
            self.windows.move_to_end(owner)
        window.newest_ns = max(window.newest_ns, links[-1].time_ns)
        self._note_begun(key, links)
        window.partials.pop(key, None)
        window.partials[key] = links
        while sum(map(len, window.partials.values())) > self._max_events:
            del window.partials[next(iter(window.partials))]
            self.cut += 1

    def _expire(self) -> None:
        oldest_ns = self.newest_ns - self._longest_ns
        while self.windows:
            owner, window = next(iter(self.windows.items()))
            if window.newest_ns >= oldest_ns:
                return
            del self.windows[owner]
