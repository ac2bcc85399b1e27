"""Who is running, who started whom, and what each one runs: the memory of detection.

A process is known by (pid, start time), so a reused pid is another process. Its parent is the one
that forked it, for good: when the parent dies the kernel hands the child to init, but the lineage
does not change.

A parent never starts after its child, and is never its descendant: lineages have no cycles,
whatever the events say.

Bounded in processes and in the bytes of their words: an exited process is kept for a grace time,
because its events and its children's may still come, then for as long as it has children here and
there is room. When there is no room, the oldest exit goes first, then the oldest process without
children: a shell or a daemon that everything descends from is worth more than what it started.

Events may come late and in any order. A process first met by something other than its fork gets an
entry with what that event says; its name alone makes nobody trusted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from actors.detection.contacts import Contact, connected, executed, listening
from actors.detection.events import (
    ActingEvent,
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    Identity,
    ListenEvent,
    OpenEvent,
    SeedEvent,
)
from actors.detection.launches import Launch, Launchers
from actors.detection.lineages import MAX_DEPTH, Lineages
from actors.detection.loaders import loaded_by, named_words
from actors.detection.processes import Process, TableState, TableStatistics, restored, saved
from actors.detection.programs import Program, Programs
from actors.detection.text import memory_bytes

_UNKNOWN_UID = -1
_MAX_PASSED_OVER = 16
"""Parents that one eviction passes over: more would make a long chain of processes costly."""
_MAX_COMMAND_LINE = 2048
_MAX_TEXT_BYTES = 8 << 20
"""What the words of all processes take together; watched processes choose how long they are."""


class ProcessTable:
    """The processes of one host, fed with its events.

    Args:
        max_processes: How many are remembered.
        grace_secs: How long one that has ended is remembered.
        programs: Shares equal programs between tables.
        passes: Whether a program is a pass-through program: it runs what it is told to.
        keep_command_lines: Whether rules ask for the command lines of processes.
    """

    def __init__(  # noqa: PLR0913 - settings, each with a default
        self,
        *,
        max_processes: int = 16_384,
        max_text_bytes: int = _MAX_TEXT_BYTES,
        grace_secs: float = 30.0,
        programs: Programs | None = None,
        passes: Callable[[Program], bool] = lambda _program: False,
        keep_command_lines: bool = False,
    ) -> None:
        self._max_processes = max_processes
        self._max_text_bytes = max_text_bytes
        self._text_bytes = 0
        self._grace_ns = int(grace_secs * 1e9)
        self._programs = Programs() if programs is None else programs
        self._launchers = Launchers(passes)
        self._keep_command_lines = keep_command_lines
        # Ordered by its own list: the first key of a plain dict that has lost many is far to seek.
        self._processes: OrderedDict[Identity, Process] = OrderedDict()
        self._by_pid: dict[int, Process] = {}
        self._children: dict[Identity, int] = {}
        self._exited: deque[Process] = deque()
        self._kept_for_children: OrderedDict[Identity, Process] = OrderedDict()
        self._newest_ns = 0
        self._due_ns = 0
        self._lineages = Lineages(self._processes)
        self._expired = 0
        self._evicted_exited = 0
        self._evicted_alive = 0
        self._unannounced = 0
        self._superseded = 0

    # Questions

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

    def statistics(self) -> TableStatistics:
        """Return what people watch."""
        return TableStatistics(
            processes=len(self._processes),
            exited=len(self._exited) + len(self._kept_for_children),
            expired=self._expired,
            evicted_exited=self._evicted_exited,
            evicted_alive=self._evicted_alive,
            unannounced=self._unannounced,
            superseded=self._superseded,
        )

    # Snapshots

    def state(self) -> TableState:
        """Return all it knows, for a snapshot."""
        numbers: dict[Program, int] = {}
        processes = tuple(saved(each, numbers) for each in self._processes.values())
        return TableState(
            programs=tuple((p.comm, p.exe, p.filename, p.system_exe) for p in numbers),
            processes=processes,
            holders=tuple(each.identity for each in self._by_pid.values()),
            exited=tuple(each.identity for each in self._exited),
            kept_for_children=tuple(self._kept_for_children),
            newest_ns=self._newest_ns,
            due_ns=self._due_ns,
            counts=(
                self._expired,
                self._evicted_exited,
                self._evicted_alive,
                self._unannounced,
                self._superseded,
            ),
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
        self._exited.extend(known[identity] for identity in state.exited)
        self._kept_for_children.update(
            (identity, known[identity]) for identity in state.kept_for_children
        )
        self._newest_ns, self._due_ns = state.newest_ns, state.due_ns
        (
            self._expired,
            self._evicted_exited,
            self._evicted_alive,
            self._unannounced,
            self._superseded,
        ) = state.counts

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
        while self._text_bytes > self._max_text_bytes and self._processes:
            self._evict()
        program = self.program_of(event)
        kept = self._programs.kept(program)
        process = self._processes.get((event.pid, event.start_ns))
        parent = self._parent_of(event) if process is None else process.parent
        launcher, initiator = self.launched_by(event)
        contact = None if process is None else process.contact
        if process is None:
            self._unannounced += 1
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
            self._unannounced += 1
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
            self._unannounced += 1
            process = self._add(event, None, self._programs.get(event.comm), event.uid)
        return process

    def program_at(self, process: Process, event: OpenEvent | ConnectEvent) -> Program:
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
        before = process.text_bytes
        process.initiator = initiator
        self._text_bytes += process.text_bytes - before

    def _touch(self, process: Process, contact: Contact | None) -> None:
        """Note what a process has in common with others."""
        if contact is not process.contact:
            before = process.text_bytes
            process.contact = contact
            self._text_bytes += process.text_bytes - before

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
        after the highest, tell who came first; then the ancestors of that tick are looked through.
        """
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
        while len(self._processes) >= self._max_processes or (
            self._text_bytes > self._max_text_bytes and self._processes
        ):
            self._evict()
        self._text_bytes += program.text_bytes
        identity = (event.pid, event.start_ns)
        process = self._processes[identity] = Process(identity, None, program, uid)
        self._lineages.changed(identity)
        if parent is not None:
            self._adopt(process, parent)
        holder = self._by_pid.get(event.pid)
        if holder is None:
            self._by_pid[event.pid] = process
        elif holder.identity[1] < event.start_ns:
            self._by_pid[event.pid] = process
            if holder.alive:
                self._superseded += 1
                self._end(holder, event.start_ns)
        else:
            self._superseded += 1
            self._end(process, holder.identity[1])
        return process

    def _adopt(self, process: Process, parent: Identity | None) -> None:
        """Note the parent of a process that has none yet; a lineage never changes."""
        if process.parent is None and parent is not None:
            process.parent = parent
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
            self._exited.append(process)

    # Forgetting

    def _expire(self) -> None:
        """Forget what ended before the grace time, unless its children still need its name."""
        if self._newest_ns < self._due_ns:
            return
        oldest_ns = self._newest_ns - self._grace_ns
        while self._exited:
            process = self._exited[0]
            if process.exit_ns >= oldest_ns:
                self._due_ns = process.exit_ns + self._grace_ns
                return
            self._exited.popleft()
            if process.identity in self._children:
                self._kept_for_children[process.identity] = process
            else:
                self._expired += 1
                self._forget(process)

    def _evict(self) -> None:
        if self._kept_for_children:
            self._evicted_exited += 1
            self._forget(next(iter(self._kept_for_children.values())))
        elif self._exited:
            self._evicted_exited += 1
            self._due_ns = 0  # the next one may be older
            self._forget(self._exited.popleft())
        else:
            self._evicted_alive += 1
            self._forget(self._oldest())

    def _oldest(self) -> Process:
        """Return who goes next of those that live; parents before it get another turn."""
        for _ in range(_MAX_PASSED_OVER):
            identity = next(iter(self._processes))
            if identity not in self._children:
                break
            self._processes.move_to_end(identity)
        return next(iter(self._processes.values()))

    def _forget(self, process: Process) -> None:
        """Drop an entry, and the ended ancestors that were only kept for its sake."""
        forgotten: Process | None = process
        while forgotten is not None:
            identity = forgotten.identity
            del self._processes[identity]
            self._text_bytes -= forgotten.text_bytes
            self._lineages.changed(identity)
            self._kept_for_children.pop(identity, None)
            if self._by_pid.get(identity[0]) is forgotten:
                del self._by_pid[identity[0]]
            forgotten = self._release(forgotten.parent)

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
            self._expired += 1
        return unneeded
