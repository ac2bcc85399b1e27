"""A process as detection remembers it, and the records of the table of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from actors.detection.contacts import Contact
from actors.detection.events import Identity
from actors.detection.fair import Owner
from actors.detection.programs import Program
from actors.detection.scoring import ScoreSheet
from actors.detection.text import memory_bytes


class Process(msgspec.Struct, eq=False, gc=False):
    """One process, alive or recently gone."""

    identity: Identity
    parent: Identity | None
    """The process that forked it, whether or not it is (still) in the table."""
    program: Program
    uid: int
    """-1 when unknown."""
    exec_ns: int = 0
    """Time of its latest exec; 0 when it still runs what it inherited."""
    exit_ns: int = 0
    """0 while it runs."""
    rarity: int = 0
    """The greatest rarity bonus of its execs: running something common later wins nothing."""
    sheet: ScoreSheet | None = None
    """Rules seen on it."""
    command_line: str = ""
    """Its arguments as one line, cut; empty when unknown, or where no rule asks for them."""
    initiator: Program | None = None
    """Who started the program it runs; if that is a pass-through program, who started that one."""
    root: Identity = (0, 0)
    """The first process of its lineage, inherited at the fork: it outlives all that is between."""
    contact: Contact | None = None
    """Its connections and pipes; None where there are none."""

    @property
    def owner(self) -> Owner:
        """Whose the entry is, where there is no room for all."""
        return (self.uid, self.root)

    @property
    def alive(self) -> bool:
        """Whether its exit was not seen yet."""
        return not self.exit_ns

    @property
    def text_bytes(self) -> int:
        """At most how many bytes its words take, though it may share them with others."""
        words = self.program.text_bytes + memory_bytes(self.command_line)
        if self.initiator is not None:
            words += self.initiator.text_bytes
        return words if self.contact is None else words + self.contact.text_bytes


class ProcessState(msgspec.Struct, frozen=True, array_like=True):
    """A process as a snapshot has it."""

    identity: Identity
    parent: Identity | None
    program: int
    """Which of the programs."""
    uid: int
    exec_ns: int
    exit_ns: int
    rarity: int
    sheet: ScoreSheet | None
    command_line: str
    initiator: int | None
    """Which of the programs; None when unknown."""
    root: Identity
    contact: Contact | None = None


def saved(process: Process, numbers: dict[Program, int]) -> ProcessState:
    """Return a process as a snapshot has it; its programs are added to those that are numbered."""
    initiator = process.initiator
    return ProcessState(
        process.identity,
        process.parent,
        numbers.setdefault(process.program, len(numbers)),
        process.uid,
        process.exec_ns,
        process.exit_ns,
        process.rarity,
        process.sheet,
        process.command_line,
        None if initiator is None else numbers.setdefault(initiator, len(numbers)),
        process.root,
        process.contact,
    )


def restored(state: ProcessState, programs: Sequence[Program]) -> Process:
    """Return the process that a snapshot has."""
    return Process(
        state.identity,
        state.parent,
        programs[state.program],
        state.uid,
        state.exec_ns,
        state.exit_ns,
        state.rarity,
        state.sheet,
        state.command_line,
        None if state.initiator is None else programs[state.initiator],
        state.root,
        state.contact,
    )


class TableCounts(msgspec.Struct, gc=False):
    """What happened to the entries of a table."""

    expired: int = 0
    """Ended processes forgotten in due time."""
    evicted_exited: int = 0
    """Ended processes forgotten early, for lack of room."""
    evicted_alive: int = 0
    """Running processes forgotten for lack of room."""
    unannounced: int = 0
    """Processes first met by neither a seed nor a fork."""
    superseded: int = 0
    """Processes whose exit was not seen, ended by the reuse of their pid."""


class TableState(msgspec.Struct, frozen=True):
    """A whole table as a snapshot has it; orders matter, for they say what is forgotten next."""

    programs: tuple[tuple[str, str, str, bool], ...]
    """comm, exe, filename, system_exe."""
    processes: tuple[ProcessState, ...]
    holders: tuple[Identity, ...]
    """Who had each pid last."""
    exited: tuple[Identity, ...]
    kept_for_children: tuple[Identity, ...]
    roots: tuple[tuple[Identity, Identity], ...]
    """Of what was forgotten while it ran."""
    newest_ns: int
    due_ns: int
    counts: TableCounts


class TableStatistics(msgspec.Struct, frozen=True):
    """What the process table holds and what it had to forget."""

    processes: int
    """Entries now."""
    exited: int
    """Of these, processes that have ended."""
    expired: int
    evicted_exited: int
    evicted_alive: int
    unannounced: int
    superseded: int
    """All of `TableCounts`."""
