"""What a table of processes remembers, and how it goes into a snapshot and back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from actors.detection.events import Identity
from actors.detection.processes import (
    Process,
    TableCounts,
    TableState,
    TableStatistics,
    restored,
    saved,
)
from actors.detection.programs import Program, Programs


class TableMemory:
    """Processes, by identity and by pid; `ProcessTable` keeps it up to date."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        # Ordered by its own list: the first key of a plain dict that has lost many is far to seek.
        self._processes: OrderedDict[Identity, Process] = OrderedDict()
        self._by_pid: dict[int, Process] = {}
        self._children: dict[Identity, int] = {}
        """How many of those here a process has started, whether or not it is here itself."""
        self._exited: OrderedDict[Identity, Process] = OrderedDict()
        """What ended less than the grace time ago."""
        self._kept_for_children: OrderedDict[Identity, Process] = OrderedDict()
        """What ended before that and has children here."""
        self._roots: OrderedDict[Identity, Identity] = OrderedDict()
        """The roots of what was forgotten while it ran."""
        self._text_bytes = 0
        self._newest_ns = 0
        self._due_ns = 0
        """When the next exit's grace is over."""
        self._counts = TableCounts()

    def __len__(self) -> int:
        return len(self._processes)

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes.values())

    def get(self, identity: Identity) -> Process | None:
        """Return the process, or None when it is not (or no longer) known."""
        return self._processes.get(identity)

    def current(self, pid: int) -> Process | None:
        """Return the latest process known to have had ``pid``; it may have ended."""
        return self._by_pid.get(pid)

    def parent(self, process: Process) -> Process | None:
        """Return the process that forked this one, if it is still known."""
        return None if process.parent is None else self._processes.get(process.parent)

    def has_ended(self, identity: Identity) -> bool:
        """Whether a process is known to have ended, and nothing that it started is known."""
        process = self._processes.get(identity)
        return process is not None and process.exit_ns > 0 and identity not in self._children

    def statistics(self) -> TableStatistics:
        """Return what people watch."""
        return TableStatistics(
            processes=len(self._processes),
            exited=len(self._exited) + len(self._kept_for_children),
            **msgspec.structs.asdict(self._counts),
        )

    def state(self) -> TableState:
        """Return all it knows, for a snapshot."""
        numbers: dict[Program, int] = {}
        processes = tuple(saved(each, numbers) for each in self._processes.values())
        return TableState(
            programs=tuple((p.comm, p.exe, p.filename, p.system_exe) for p in numbers),
            processes=processes,
            holders=tuple(each.identity for each in self._by_pid.values()),
            exited=tuple(self._exited),
            kept_for_children=tuple(self._kept_for_children),
            roots=tuple(self._roots.items()),
            newest_ns=self._newest_ns,
            due_ns=self._due_ns,
            counts=msgspec.structs.replace(self._counts),
        )

    def adopt(self, state: TableState) -> None:
        """Go on where a snapshot was taken; only for an empty table.

        Raises:
            KeyError: The state contradicts itself.
        """
        get = self._programs.get
        programs = [
            get(comm, exe, filename, system=system)
            for comm, exe, filename, system in state.programs
        ]
        known = self._processes
        for each in state.processes:
            process = known[each.identity] = restored(each, programs)
            self._text_bytes += process.text_bytes
            if each.parent is not None:
                self._children[each.parent] = self._children.get(each.parent, 0) + 1
        self._by_pid = {identity[0]: known[identity] for identity in state.holders}
        self._exited.update((identity, known[identity]) for identity in state.exited)
        self._kept_for_children.update(
            (identity, known[identity]) for identity in state.kept_for_children
        )
        self._roots.update(state.roots)
        self._newest_ns, self._due_ns = state.newest_ns, state.due_ns
        self._counts = msgspec.structs.replace(state.counts)
