"""Who is running, who started whom, and what each one runs: the memory of detection.

A process is known by (pid, start time), so a reused pid is another process. Its parent is the one
that forked it, for good: when the parent dies the kernel hands the child to init, but the lineage
does not change.

A parent never starts after its child, and is never its descendant: lineages have no cycles,
whatever the events say.

Bounded in processes and in the bytes of their words: an exited process is kept for a grace time,
because its events and its children's may still come, then for as long as it has children here and
there is room. When there is no room, the users and lineages with most give something up
(`fair.py`), of theirs first what has ended without children, then what ended, then what has no
children: a shell or a daemon that everything descends from is worth more than what it started. If
a process is forgotten that still runs, that is noted.

The root of a lineage is inherited at each fork. Where the processes in between are forgotten, it
still says what belongs together.

Events may come late and in any order. A process first met by something other than its fork gets an
entry with what that event says; its name alone makes nobody trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from actors.detection.contacts import Contact, connected, executed, listening
from actors.detection.cuts import Cuts, Lost
from actors.detection.events import (
    ActingEvent,
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
from actors.detection.fair import Owner, shares, to_free
from actors.detection.launches import Launch, Launchers
from actors.detection.lineages import MAX_DEPTH, Lineages
from actors.detection.loaders import loaded_by, named_words
from actors.detection.processes import Process
from actors.detection.programs import Program, Programs
from actors.detection.table_memory import TableMemory
from actors.detection.text import memory_bytes

_UNKNOWN_UID = -1
_MAX_COMMAND_LINE = 2048
_MAX_TEXT_BYTES = 8 << 20
"""What the words of all processes take together; watched processes choose how long they are."""


class ProcessTable(TableMemory):
    """The processes of one host, fed with its events.

    Args:
        max_processes: How many are remembered.
        max_text_bytes: How much their words take at most.
        grace_secs: How long one that has ended is remembered.
        programs: Shares equal programs between tables.
        passes: Whether a program is a pass-through program: it runs what it is told to.
        keep_command_lines: Whether rules ask for the command lines of processes.
        is_boundary: Whether what a process starts has nothing else in common: a new lineage.
        cuts: Where to say that a process that runs was forgotten.
    """

    def __init__(  # noqa: PLR0913 - what a host's table depends on
        self,
        *,
        max_processes: int = 16_384,
        max_text_bytes: int = _MAX_TEXT_BYTES,
        grace_secs: float = 30.0,
        programs: Programs | None = None,
        passes: Callable[[Program], bool] = lambda _program: False,
        keep_command_lines: bool = False,
        is_boundary: Callable[[Process], bool] = lambda _: False,
        cuts: Cuts | None = None,
    ) -> None:
        super().__init__(Programs() if programs is None else programs)
        self.on_spent: Callable[[Identity], None] = lambda _: None
        """Told of each process that is forgotten after its end, with all that it started."""
        self._is_boundary = is_boundary
        self._cuts = Cuts() if cuts is None else cuts
        self._max_processes = max_processes
        self._max_text_bytes = max_text_bytes
        self._grace_ns = int(grace_secs * 1e9)
        self._launchers = Launchers(passes)
        self._keep_command_lines = keep_command_lines
        self._lineages = Lineages(self._processes)

    # Lineages

    def ancestors(self, process: Process, *, depth: int = MAX_DEPTH) -> list[Process]:
        """Return the lineage: parent first, at most ``depth`` of them, as far as it is known."""
        parent = process.parent
        if parent is None:
            return []
        lineage, _ = self._lineages.of(parent)
        return lineage[:depth]

    def ancestry(self, identity: Identity) -> str:
        """Return the lineage as people read it, oldest first: ``init=>sshd=>bash=>curl``.

        Names are printable and cannot contain the arrow. Empty for an unknown process.
        """
        process = self._processes.get(identity)
        if process is None:
            return ""
        parent = process.parent
        if parent is None:
            return process.program.shown
        _, above = self._lineages.of(parent)
        return above + process.program.shown

    # Events

    def seed(self, event: SeedEvent) -> Process:
        """Learn a process that was there before us; events already seen know better."""
        target = loaded_by(event.exe, event.argv)
        exe = target or event.exe
        system = event.system_exe and not target
        program = self._programs.kept(self._programs.get(event.comm, exe, exe, system=system))
        parent = self._parent_of(event)
        process = self._processes.get(event.identity)
        if process is None:
            process = self._add(event, parent, program, event.uid)
        else:
            self._fill(process, parent, program, event.uid)
        if process.initiator is None and not process.exec_ns:
            self._blame(process, self._launchers.initiator(self.parent(process)))
        if self._keep_command_lines and not process.exec_ns:
            self._note_arguments(process, event.argv)
        return process

    def fork(self, event: ForkEvent) -> Process:
        """Learn a new process; it runs what its parent runs."""
        parent = self._parent_of(event)
        forker = None if parent is None else self._processes.get(parent)
        # A fork that comes after its parent's next exec must not inherit that exec's program.
        if forker is not None and forker.exec_ns <= event.time_ns:
            program = forker.program
        else:
            program = self._programs.get(event.comm)
        process = self._processes.get((event.pid, event.start_ns))
        if process is None:
            process = self._add(event, parent, program, event.uid)
            if forker is not None:
                process.command_line = forker.command_line
                self._text_bytes += memory_bytes(process.command_line)
                self._blame(process, forker.initiator)
                self._touch(process, forker.contact)
        else:
            self._fill(process, parent, program, event.uid)
        return process

    def exec(self, event: ExecEvent) -> Launch:
        """Learn what a process runs from now on; only for an exec that succeeded."""
        if self._text_bytes > self._max_text_bytes:
            self._make_room(event.time_ns)
        program = self.program_of(event)
        kept = program if program.short else self._programs.kept(program)
        process = self._processes.get((event.pid, event.start_ns))
        parent = self._parent_of(event) if process is None else process.parent
        forker = None if parent is None else self._processes.get(parent)
        launcher, initiator = self._launchers.of(event, process, forker)
        contact = None if process is None else process.contact
        if process is None:
            self._counts.unannounced += 1
            process = self._add(event, parent, kept, event.uid)
        else:
            if parent is None:
                self._adopt(process, self._parent_of(event))
            if process.exec_ns <= event.time_ns:
                self._run(process, kept)
                process.uid = event.uid
        if process.exec_ns <= event.time_ns:
            self._blame(process, initiator)
            passes = self._launchers.passes(program)
            self._touch(process, executed(contact, event, program, passes=passes))
        if self._keep_command_lines and process.exec_ns <= event.time_ns:
            self._note_arguments(process, event.argv)
        process.exec_ns = max(process.exec_ns, event.time_ns)
        return Launch(launcher, initiator, process, program, contact)

    def connect(self, event: ConnectEvent) -> Process:
        """Learn with whom a process is connected."""
        process = self.meet(event)
        self._touch(process, connected(process.contact, event))
        return process

    def listen(self, event: ListenEvent) -> Process:
        """Learn where a process listens."""
        process = self.meet(event)
        self._touch(process, listening(process.contact, event))
        return process

    def exit(self, event: ExitEvent) -> Process:
        """Note the end of a process; what it was stays known for a while."""
        process = self._processes.get((event.pid, event.start_ns))
        if process is None:
            self._counts.unannounced += 1
            process = self._add(event, None, self._programs.get(""), _UNKNOWN_UID)
        self._end(process, event.time_ns)
        self._expire()
        return process

    def program_of(self, event: ExecEvent) -> Program:
        """Return the program an exec names; for a late event the process may have moved on."""
        exe, filename, system = named_words(event)
        return self._programs.get(event.comm, exe, filename, system=system)

    def meet(self, event: ActingEvent) -> Process:
        """Return the process that did something; met for the first time, it is only a name."""
        process = self._processes.get(event.identity)
        if process is None:
            self._counts.unannounced += 1
            process = self._add(event, None, self._programs.get(event.comm), event.uid)
        return process

    def program_at(self, process: Process, event: OpenEvent | ConnectEvent | FloodEvent) -> Program:
        """Return what a process ran at the time of an event.

        For an event from before its latest exec that is not known any more: then it is only the
        event's comm, so that nobody gets the benefit of a program started afterwards.
        """
        if process.exec_ns <= event.time_ns:
            return process.program
        return self._programs.get(event.comm)

    def launched_by(self, event: ExecEvent) -> tuple[Program | None, Program | None]:
        """Return the launcher and the initiator of an exec, as `Launchers` tells them."""
        process = self._processes.get((event.pid, event.start_ns))
        parent = self._parent_of(event) if process is None else process.parent
        forker = None if parent is None else self._processes.get(parent)
        return self._launchers.of(event, process, forker)

    # Entries

    def _run(self, process: Process, program: Program) -> None:
        """Note what a process runs from now on."""
        self._text_bytes += program.text_bytes - process.program.text_bytes
        process.program = program
        self._lineages.changed(process.identity)

    def _blame(self, process: Process, initiator: Program | None) -> None:
        """Note who is responsible for what a process runs."""
        if initiator is not process.initiator:
            self._text_bytes -= 0 if process.initiator is None else process.initiator.text_bytes
            self._text_bytes += 0 if initiator is None else initiator.text_bytes
            process.initiator = initiator

    def _touch(self, process: Process, contact: Contact | None) -> None:
        """Note what a process has in common with others."""
        if contact is not process.contact:
            self._text_bytes -= 0 if process.contact is None else process.contact.text_bytes
            self._text_bytes += 0 if contact is None else contact.text_bytes
            process.contact = contact

    def _note_arguments(self, process: Process, argv: tuple[str, ...]) -> None:
        before = memory_bytes(process.command_line)
        process.command_line = " ".join(argv)[:_MAX_COMMAND_LINE]
        self._text_bytes += memory_bytes(process.command_line) - before

    def _parent_of(self, event: SeedEvent | ForkEvent | ExecEvent) -> Identity | None:
        """Return the parent an event names, if it can be the parent of that process."""
        if event.ppid <= 0:
            return None
        if event.parent_start_ns:
            named = (event.ppid, event.parent_start_ns)
            known = self._processes.get(named)
            identity = named if known is None else known.identity  # share the tuple
        else:
            known = self._by_pid.get(event.ppid)
            if known is None or (known.exit_ns and known.exit_ns < event.start_ns):
                return None
            identity = known.identity
        return identity if self._comes_before(identity, event) else None

    def _comes_before(self, parent: Identity, child: SeedEvent | ForkEvent | ExecEvent) -> bool:
        """Whether a process can be the parent of another: nobody is its own ancestor.

        Start times rise along a lineage. Within one tick neither they nor pids, which begin anew
        after the highest, tell who came first; then the ancestors of that tick are looked through,
        unless the child has no children here: then it is nobody's ancestor, however many they are.
        """
        if parent != child.identity and child.identity not in self._children:
            return parent[1] <= child.start_ns
        ancestor: Identity | None = parent
        for _ in range(MAX_DEPTH):
            if ancestor is None or ancestor[1] < child.start_ns:
                return True
            if ancestor[1] > child.start_ns or ancestor[0] == child.pid:
                return False
            process = self._processes.get(ancestor)
            ancestor = None if process is None else process.parent
        return False

    def _add(self, event: AnyEvent, parent: Identity | None, program: Program, uid: int) -> Process:
        self._newest_ns = max(self._newest_ns, event.time_ns)
        self._expire()
        self._make_room(event.time_ns, more=1)
        self._text_bytes += program.text_bytes
        identity = (event.pid, event.start_ns)
        root = self._roots.pop(identity, identity)
        process = Process(identity, None, program, uid, root=root)
        self._processes[identity] = process
        self._lineages.changed(identity)
        if parent is not None:
            self._adopt(process, parent)
        holder = self._by_pid.get(event.pid)
        if holder is None:
            self._by_pid[event.pid] = process
        elif holder.identity[1] < event.start_ns:
            self._by_pid[event.pid] = process
            if holder.alive:
                self._counts.superseded += 1
                self._end(holder, event.start_ns)
        else:
            self._counts.superseded += 1
            self._end(process, holder.identity[1])
        return process

    def _adopt(self, process: Process, parent: Identity | None) -> None:
        """Note the parent of a process that has none yet; a lineage never changes."""
        if process.parent is None and parent is not None:
            process.parent = parent
            above = self._processes.get(parent)
            if above is None:
                process.root = self._roots.get(parent, process.root)
            elif not self._is_boundary(above):
                process.root = above.root
            self._children[parent] = self._children.get(parent, 0) + 1
            self._lineages.changed(process.identity)

    def _fill(self, process: Process, parent: Identity | None, program: Program, uid: int) -> None:
        """Add what a late event knows about a process that is already known."""
        self._adopt(process, parent)
        if not process.program.exe and (program.exe or not process.program.comm):
            self._run(process, program)
        if process.uid == _UNKNOWN_UID:
            process.uid = uid

    def _end(self, process: Process, time_ns: int) -> None:
        self._newest_ns = max(self._newest_ns, time_ns)
        if not process.exit_ns:
            process.exit_ns = time_ns or 1
            self._exited[process.identity] = process

    # Forgetting

    def _expire(self) -> None:
        """Forget what ended before the grace time, unless its children still need its name."""
        if self._newest_ns < self._due_ns:
            return
        oldest_ns = self._newest_ns - self._grace_ns
        while self._exited:
            process = next(iter(self._exited.values()))
            if process.exit_ns >= oldest_ns:
                self._due_ns = process.exit_ns + self._grace_ns
                return
            del self._exited[process.identity]
            if process.identity in self._children:
                self._kept_for_children[process.identity] = process
            else:
                self._counts.expired += 1
                self._forget(process)

    def _make_room(self, time_ns: int, *, more: int = 0) -> None:
        """Have room for more processes, and for their words."""
        if len(self._processes) + more > self._max_processes:
            self._evict(to_free(len(self._processes) + more, self._max_processes), None, time_ns)
        if self._text_bytes > self._max_text_bytes:
            need = to_free(self._text_bytes, self._max_text_bytes)
            self._evict(need, lambda each: each.text_bytes, time_ns)

    def _evict(self, need: int, weigh: Callable[[Process], int] | None, time_ns: int) -> None:
        """Forget a part of what those have who have most.

        Args:
            need: How much.
            weigh: What a process counts; None: one each.
            time_ns: When.
        """
        sizes: dict[Owner, int] = {}
        for each in self._processes.values():
            owner = (each.uid, each.root)
            sizes[owner] = sizes.get(owner, 0) + (1 if weigh is None else weigh(each))
        left = shares(sizes, need)
        open_shares = len(left)
        children = self._children
        by_worth: tuple[list[Process], ...] = ([], [], [], [])
        """What goes first, and last; of the same worth the oldest entry goes first."""
        for each in self._processes.values():
            if (each.uid, each.root) in left:
                worth = (0 if each.exit_ns else 2) + (each.identity in children)
                by_worth[worth].append(each)
        running: list[Lost] = []
        for process in chain.from_iterable(by_worth):
            owner = (process.uid, process.root)
            if left[owner] <= 0 or process.identity not in self._processes:
                continue
            left[owner] -= 1 if weigh is None else weigh(process)
            open_shares -= left[owner] <= 0
            if process.alive:
                self._counts.evicted_alive += 1
                running.append(Lost(owner, process.program.shown, process.identity[1]))
            else:
                self._counts.evicted_exited += 1
            self._forget(process)
            if not open_shares:
                break
        self._due_ns = 0  # the oldest exit may be another by now
        self._cuts.note("processes_forgotten", running, time_ns=time_ns)

    def _forget(self, process: Process) -> None:
        """Drop an entry, and the ended ancestors that were only kept for its sake."""
        forgotten: Process | None = process
        while forgotten is not None:
            identity = forgotten.identity
            del self._processes[identity]
            self._text_bytes -= forgotten.text_bytes
            self._lineages.changed(identity)
            self._kept_for_children.pop(identity, None)
            self._exited.pop(identity, None)
            if forgotten.alive:
                self._keep_root(forgotten)
            elif identity not in self._children:
                self.on_spent(identity)
            if self._by_pid.get(identity[0]) is forgotten:
                del self._by_pid[identity[0]]
            forgotten = self._release(forgotten.parent)

    def _keep_root(self, process: Process) -> None:
        """Remember the lineage of a process that is forgotten while it runs: it can fork."""
        if not self._is_boundary(process):
            self._roots[process.identity] = process.root
            if len(self._roots) > self._max_processes:
                self._roots.popitem(last=False)

    def _release(self, parent: Identity | None) -> Process | None:
        """Count one child less; return the parent if that child was all it was kept for."""
        if parent is None:
            return None
        left = self._children[parent] - 1
        if left:
            self._children[parent] = left
            return None
        del self._children[parent]
        unneeded = self._kept_for_children.get(parent)
        if unneeded is not None:
            self._counts.expired += 1
        return unneeded
