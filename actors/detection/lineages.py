"""Lineages of parents, and how they read: children come by the hundred."""

from __future__ import annotations

from collections.abc import Mapping

from actors.detection.events import Identity
from actors.detection.processes import Process

MAX_DEPTH = 32
"""How far up a lineage is followed."""

_MAX_LINEAGES = 256
_ARROW = "=>"


class Lineages:
    """A cache over a table of processes.

    Whatever changes a process that is in a lineage, or is missing there, clears them all.
    """

    def __init__(self, processes: Mapping[Identity, Process]) -> None:
        self._processes = processes
        self._known: dict[Identity, tuple[list[Process], str]] = {}
        self._members: set[Identity] = set()

    def of(self, parent: Identity) -> tuple[list[Process], str]:
        """Return the lineage that begins with a parent, and how its child's ancestry begins."""
        return self._known.get(parent) or self._follow(parent)

    def changed(self, identity: Identity) -> None:
        """Take note that a process is another now."""
        if identity in self._members:
            self._clear()

    def _follow(self, parent: Identity) -> tuple[list[Process], str]:
        if len(self._known) >= _MAX_LINEAGES:
            self._clear()
        lineage: list[Process] = []
        identity: Identity | None = parent
        while identity is not None and len(lineage) < MAX_DEPTH:
            self._members.add(identity)
            process = self._processes.get(identity)
            if process is None:
                break
            lineage.append(process)
            identity = process.parent
        names = [each.program.shown for each in lineage[MAX_DEPTH - 2 :: -1]]
        found = self._known[parent] = (lineage, "".join(f"{name}{_ARROW}" for name in names))
        return found

    def _clear(self) -> None:
        self._known.clear()
        self._members.clear()
