"""Who is running, who started whom, and what each one runs: the memory of detection.

A process is known by (pid, start time), so a reused pid is another process. Its parent is the one
that forked it, for good: when the parent dies the kernel hands the child to init, but the lineage
does not change.

A parent never starts after its child, and is never its descendant: lineages have no cycles,
whatever the events say.

Bounded: an exited process is kept for a grace time, because its events and its children's may
still come, then for as long as it has children here and there is room. When there is no room, the
oldest exit goes first, then the oldest process without children: a shell or a daemon that
everything descends from is worth more than what it started.

Events may come late and in any order. A process first met by something other than its fork gets an
entry with what that event says; its name alone makes nobody trusted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from actors.detection.events import (
    ActingEvent,
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    Identity,
    OpenEvent,
    SeedEvent,
)
from actors.detection.processes import Process, ProcessState, TableState, TableStatistics
from actors.detection.programs import Program, Programs

MAX_DEPTH = 32
"""How far up a lineage is followed."""

_UNKNOWN_UID = -1
_MAX_LINEAGES = 256
_MAX_PASSED_OVER = 16
"""Parents that one eviction passes over: more would make a long chain of processes costly."""
_MAX_COMMAND_LINE = 2048
_ARROW = "=>"


class ProcessTable:
    """The processes of one host, fed with its events."""

    def __init__(
        self,
        *,
        max_processes: int = 16_384,
        grace_secs: float = 30.0,
        programs: Programs | None = None,
        keep_command_lines: bool = False,
    ) -> None:
        self._max_processes = max_processes
        self._grace_ns = int(grace_secs * 1e9)
        self._programs = Programs() if programs is None else programs
        self._keep_command_lines = keep_command_lines
        # Ordered by its own list: the first key of a plain dict that has lost many is far to seek.
        self._processes: OrderedDict[Identity, Process] = OrderedDict()
        self._by_pid: dict[int, Process] = {}
        self._children: dict[Identity, int] = {}
        self._exited: deque[Process] = deque()
        self._kept_for_children: OrderedDict[Identity, Process] = OrderedDict()
        self._newest_ns = 0
        self._due_ns = 0
        # Lineages of parents, and how they read: children come by the hundred. Whatever changes a
        # process that is in one of them, or is missing there, clears them all.
        self._lineages: dict[Identity, tuple[list[Process], str]] = {}
        self._in_lineages: set[Identity] = set()
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
        lineage, _ = self._lineages.get(parent) or self._follow(parent)
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
        _, above = self._lineages.get(parent) or self._follow(parent)
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
        processes = tuple(
            ProcessState(
                each.identity,
                each.parent,
                numbers.setdefault(each.program, len(numbers)),
                each.uid,
                each.exec_ns,
                each.exit_ns,
                each.rarity,
                each.sheet,
                each.command_line,
            )
            for each in self._processes.values()
        )
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
            known[each.identity] = Process(
                each.identity,
                each.parent,
                programs[each.program],
                each.uid,
                each.exec_ns,
                each.exit_ns,
                each.rarity,
                each.sheet,
                each.command_line,
            )
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
        program = self._programs.get(event.comm, event.exe, event.exe, system=event.system_exe)
        parent = self._parent_of(event)
        process = self._processes.get(event.identity)
        if process is None:
            process = self._add(event, parent, program, event.uid)
        else:
            self._fill(process, parent, program, event.uid)
        if self._keep_command_lines and not process.exec_ns:
            process.command_line = " ".join(event.argv)[:_MAX_COMMAND_LINE]
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
        else:
            self._fill(process, parent, program, event.uid)
        return process

    def exec(self, event: ExecEvent) -> tuple[Program | None, Process, Program]:
        """Learn what a process runs from now on; only for an exec that succeeded.

        Returns:
            The program that made the exec, None when it is not known; the process; and the program
            that the exec names: if the event is late, the process runs something else by now.
        """
        program = self.program_of(event)
        process = self._processes.get((event.pid, event.start_ns))
        parent = self._parent_of(event) if process is None else process.parent
        launcher = self._launcher(event, process, parent)
        if process is None:
            self._unannounced += 1
            process = self._add(event, parent, program, event.uid)
        else:
            if parent is None:
                self._adopt(process, self._parent_of(event))
            if process.exec_ns <= event.time_ns:
                self._run(process, program)
                process.uid = event.uid
        if self._keep_command_lines and process.exec_ns <= event.time_ns:
            process.command_line = " ".join(event.argv)[:_MAX_COMMAND_LINE]
        process.exec_ns = max(process.exec_ns, event.time_ns)
        return launcher, process, program

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
        return self._programs.get(event.comm, event.exe, event.filename, system=event.system_exe)

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

    def launcher(self, event: ExecEvent) -> Program | None:
        """Return the program that tried an exec, None when it is not known.

        It is what the process runs until then: what it exec'd before, or else its parent's program,
        inherited at the fork.
        """
        process = self._processes.get((event.pid, event.start_ns))
        parent = self._parent_of(event) if process is None else process.parent
        return self._launcher(event, process, parent)

    def _launcher(
        self, event: ExecEvent, process: Process | None, parent: Identity | None
    ) -> Program | None:
        if process is not None:
            if process.exec_ns > event.time_ns:
                return None
            if process.program.exe:
                return process.program
        forker = None if parent is None else self._processes.get(parent)
        # What the parent started after the fork was not inherited.
        if forker is not None and forker.exec_ns <= event.start_ns:
            return forker.program
        return None if process is None or not process.program.comm else process.program

    # Entries

    def _follow(self, parent: Identity) -> tuple[list[Process], str]:
        """Learn the lineage that begins with a parent, and how its child's ancestry begins."""
        if len(self._lineages) >= _MAX_LINEAGES:
            self._forget_lineages()
        lineage: list[Process] = []
        identity: Identity | None = parent
        while identity is not None and len(lineage) < MAX_DEPTH:
            self._in_lineages.add(identity)
            process = self._processes.get(identity)
            if process is None:
                break
            lineage.append(process)
            identity = process.parent
        names = [each.program.shown for each in lineage[MAX_DEPTH - 2 :: -1]]
        found = self._lineages[parent] = (lineage, "".join(f"{name}{_ARROW}" for name in names))
        return found

    def _forget_lineages(self) -> None:
        self._lineages.clear()
        self._in_lineages.clear()

    def _run(self, process: Process, program: Program) -> None:
        """Note what a process runs from now on."""
        process.program = program
        if process.identity in self._in_lineages:
            self._forget_lineages()

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
        while len(self._processes) >= self._max_processes:
            self._evict()
        identity = (event.pid, event.start_ns)
        process = self._processes[identity] = Process(identity, None, program, uid)
        if identity in self._in_lineages:
            self._forget_lineages()
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
            if process.identity in self._in_lineages:
                self._forget_lineages()

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
            if identity in self._in_lineages:
                self._forget_lineages()
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
