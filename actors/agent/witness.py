"""The witness: opens of the host's own sensitive files that no probe has told of.

The probes see calls, and a call can be made in a way that they do not watch, or be made to look
like another one. A mark on the file itself (`actors.agent.marks`) sees every open of it, but tells
only which pid it was. So each notice waits until the probes have had their say: if they tell of the
same open, that is the better account and the notice is forgotten; if not, it becomes an event.

The kernel says neither when it happened nor in which mode: the event bears the moment at which the
notice was read, and counts as reading. Where the process started another program between two looks
at the queue, the event is dated before that: no program is believed that may have come afterwards.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import structlog

from actors.agent.marks import Marks, set_marks
from actors.agent.seeds import running
from actors.detection.events import (
    ExecEvent,
    ExitEvent,
    ForkEvent,
    Identity,
    OpenEvent,
    SeedEvent,
)
from bpf import fanotify
from bpf.records import COUNTERS

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

WAIT_NS = 1_000_000_000
"""How long the probes may take to tell of an open."""
SLACK_NS = 100_000_000
"""How much later than the notice a probe may be: at the end of the call."""
LOOK_NS = 4_000_000
"""Time between two looks at the queue, at least: whoever fills it does not keep us busy."""
_LOOK_BYTES = 1 << 15
_SETTLED_SECS = 60
_NO_OPEN = os.O_PATH | os.O_DIRECTORY
_WAITING_MAX = 4096
_LEARNED_MAX = 4096
"""Files that are learned of, or passed over, beside those marked at the start."""
_PROCESSES_MAX = 1 << 16

Key: TypeAlias = tuple[int, str]
"""A pid and a listed file."""


_Process: TypeAlias = tuple[int, int, str, int]
"""Start time, user, comm, and when it started the program it runs (0: not since we look)."""
_UNKNOWN: _Process = (0, 0, "?", 0)
_OPENS_MAX = 64
"""Opens of one file by one process that are remembered, the newest."""


class _Look(NamedTuple):
    """When a file was found opened: after the queue was last empty, and by this look."""

    since_ns: int
    at_ns: int


def boot_ns() -> int:
    """Boot time, nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Witness:
    """Joins the notices of marks with the probes' events.

    Args:
        marks: what is marked, and the queue; None where there are no marks.
        repeat_ns: how long the probes suppress repeats of an open.
        clock_ns: boot time.
    """

    def __init__(
        self,
        marks: Marks | None,
        *,
        repeat_ns: int = WAIT_NS,
        clock_ns: Callable[[], int] = boot_ns,
    ) -> None:
        self._marks = marks
        self._repeat_ns = repeat_ns
        self._clock_ns = clock_ns
        self._agent = os.getpid()
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._looked_ns = clock_ns()
        self._drained_ns = self._looked_ns
        self._notes: dict[str, Callable[[Sequence[Any]], None]] = {
            "FORK_EVENTS": self._note_starts,
            "EXEC_EVENTS": self._note_execs,
            "EXIT_EVENTS": self._note_exits,
            "OPEN_EVENTS": self._note_opens,
        }
        self._processes: dict[int, _Process] = {}
        self._ended: deque[tuple[int, Sequence[ExitEvent]]] = deque()
        self._exempt: dict[Identity, int] = {}
        self._paths = set() if marks is None else set(marks.files.values())
        self._folders = frozenset() if marks is None else frozenset(marks.folders.values())
        self._passed_over: set[bytes] = set()
        self._waiting: dict[Key, _Look] = {}
        self._opens: dict[Key, deque[tuple[int, bool]]] = {}
        self._told: dict[Key, int] = {}
        self._forgot_ns = self._looked_ns
        self._ready: list[OpenEvent] = []
        self._position = 0

    @property
    def descriptors(self) -> Sequence[int]:
        """Readable when something was opened; none where there are no marks."""
        return () if self._marks is None else (self._marks.group.descriptor,)

    # What the probes tell

    def learn(self, ring: str, events: Sequence[Any]) -> None:
        """Take note of what a ring held; rings come in any order."""
        note = self._notes.get(ring)
        if note is not None and self._marks is not None:
            note(events)

    def learn_seeds(self, seeds: Sequence[SeedEvent]) -> None:
        """Take note of the processes that run already."""
        self._note_starts(seeds)

    def _note_starts(self, events: Sequence[ForkEvent | SeedEvent]) -> None:
        processes = self._processes
        for event in events:
            known = processes.get(event.pid)
            if known is None or known[0] < event.start_ns:
                processes[event.pid] = (event.start_ns, event.uid, event.comm, 0)
        while len(processes) > _PROCESSES_MAX:
            del processes[next(iter(processes))]

    def _note_execs(self, events: Sequence[ExecEvent]) -> None:
        processes = self._processes
        for event in events:
            known = processes.get(event.pid)
            if not event.error and (known is None or known[0] <= event.start_ns):
                processes[event.pid] = (event.start_ns, event.uid, event.comm, event.time_ns)

    def _note_exits(self, events: Sequence[ExitEvent]) -> None:
        self._ended.append((self._looked_ns, events))

    def _note_opens(self, events: Sequence[OpenEvent]) -> None:
        paths, folders = self._paths, self._folders
        for event in events:
            if event.error or not event.resolved or event.flags & _NO_OPEN:
                continue  # of a path that is not the kernel's word, or without a notice
            reads = event.flags & os.O_ACCMODE != os.O_WRONLY
            for path in (event.filename, event.origin):
                if path and (path in paths or path.rpartition("/")[0] in folders):
                    times = self._opens.setdefault((event.pid, path), deque(maxlen=_OPENS_MAX))
                    times.append((event.time_ns, reads))

    def ignore(self, event: ExecEvent) -> None:
        """No opens of this process are delivered until its next exec, by the probes or by this."""
        if len(self._exempt) < _LEARNED_MAX:
            self._exempt[event.identity] = event.time_ns

    # What the marks tell

    def look(self) -> int:
        """Read the queue, decide what has waited long enough; how many events are ready."""
        if self._marks is None:
            return 0
        now_ns = self._clock_ns()
        if now_ns - self._looked_ns >= LOOK_NS:
            look = _Look(self._drained_ns, now_ns)
            self._looked_ns = now_ns
            for notice in self._marks.group.read(_LOOK_BYTES):
                self._take(self._marks, notice, look)
            if self._marks.group.drained:
                self._drained_ns = now_ns
        if self._waiting:
            self._decide(now_ns)
        if now_ns - self._forgot_ns > WAIT_NS:
            self._forget(now_ns)
        return len(self._ready)

    def _take(self, marks: Marks, notice: fanotify.Notice, look: _Look) -> None:
        if notice.mask & fanotify.OVERFLOW:
            self._count("lost")
            return
        path = self._listed(marks, notice)
        if not notice.mask & fanotify.OPEN:
            return
        if path is None:
            self._pass_over(marks, notice)
            self._count("filtered")
        elif notice.pid == self._agent:
            self._count("filtered")
        elif (notice.pid, path) in self._waiting:
            self._count("suppressed")
        elif len(self._waiting) >= _WAITING_MAX:
            self._count("lost")
        else:
            self._waiting[notice.pid, path] = look
            if notice.pid not in self._processes and (found := running(notice.pid)) is not None:
                self._processes[notice.pid] = (*found, 0)

    def _listed(self, marks: Marks, notice: fanotify.Notice) -> str | None:
        """The listed file that this is: by its name where that is listed, else by what it was."""
        folder = marks.folders.get(notice.folder)
        if folder is not None:
            path = f"{folder}/{notice.name.decode('utf-8', 'backslashreplace')}"
            if marks.sensitive.matches(path):
                if notice.file not in marks.files and len(self._paths) < _LEARNED_MAX:
                    marks.files[notice.file] = path
                    self._paths.add(path)
                return path
        return marks.files.get(notice.file)

    def _pass_over(self, marks: Marks, notice: fanotify.Notice) -> None:
        """Have the kernel say no more of a file that only lies beside a listed one.

        Not of what may yet take the listed one's place: a file that not everybody may read, or that
        was made or changed a moment ago.
        """
        folder = marks.folders.get(notice.folder)
        full = len(self._passed_over) >= _LEARNED_MAX
        if folder is None or full or notice.file in self._passed_over:
            return
        path = os.path.join(os.fsencode(folder), notice.name).lstrip(b"/")  # noqa: PTH118 - bytes
        try:
            found = os.stat(path, dir_fd=marks.root, follow_symlinks=False)
            if time.time() - found.st_ctime < _SETTLED_SECS:
                return
            if found.st_mode & stat.S_IROTH:
                marks.group.ignore(marks.root, path)
        except OSError:  # gone, or not ours to see
            pass
        self._passed_over.add(notice.file)

    def _decide(self, now_ns: int) -> None:
        """Make events of what has waited long enough and is told by no probe."""
        for key, look in list(self._waiting.items()):
            if now_ns - look.at_ns < WAIT_NS:
                break
            del self._waiting[key]
            process = self._processes.get(key[0], _UNKNOWN)
            if self._is_exempt((key[0], process[0]), look, exec_ns=process[3]):
                self._count("filtered")
            elif self._is_told(key, look, exec_ns=process[3]):
                self._count("suppressed")
            else:
                self._count("delivered")
                self._told[key] = look.at_ns
                self._ready.append(_event(key, look, process))

    def _is_exempt(self, identity: Identity, look: _Look, *, exec_ns: int) -> bool:
        """Whether an ignored program opened it, and none that ran in the process before."""
        return 0 < exec_ns < look.since_ns and self._exempt.get(identity) == exec_ns

    def _is_told(self, key: Key, look: _Look, *, exec_ns: int) -> bool:
        """Whether this open, or one shortly before by the same program, is told of already."""
        oldest_ns = look.since_ns - self._repeat_ns
        if self._told.get(key, 0) > max(oldest_ns, exec_ns):
            return True
        for open_ns, reads in self._opens.get(key, ()):
            if open_ns > look.since_ns:
                if open_ns <= look.at_ns + SLACK_NS and not look.at_ns < exec_ns < open_ns:
                    return True
            elif reads and open_ns >= max(oldest_ns, exec_ns):
                return True
        return False

    def _forget(self, now_ns: int) -> None:
        """Let go of what can decide nothing any more."""
        self._forgot_ns = now_ns
        oldest_ns = now_ns - 2 * WAIT_NS - self._repeat_ns
        for key in [key for key, times in self._opens.items() if times[-1][0] < oldest_ns]:
            del self._opens[key]
        for key in [key for key, time_ns in self._told.items() if time_ns < oldest_ns]:
            del self._told[key]
        while self._ended and self._ended[0][0] < oldest_ns:
            for event in self._ended.popleft()[1]:
                self._exempt.pop(event.identity, None)
                if self._processes.get(event.pid, _UNKNOWN)[0] == event.start_ns:
                    self._processes.pop(event.pid, None)

    # What comes of it

    def read(self, limit: int) -> Sequence[OpenEvent]:
        """Events that are ready; until `commit` the same are read again."""
        return self._ready[:limit]

    def commit(self, count: int) -> None:
        """Take the first ``count`` for read."""
        del self._ready[:count]
        self._position += count

    @property
    def position(self) -> int:
        """Events read, for good."""
        return self._position

    def resume(self, position: int) -> None:
        """Count on from what an agent before this one had told, for the ledger."""
        self._position = position
        for counter in ("seen", "delivered"):
            self._counts[counter] += position

    def counters(self) -> dict[str, int]:
        """As a probe's."""
        return dict(self._counts)

    def _count(self, counter: str) -> None:
        self._counts["seen"] += 1
        self._counts[counter] += 1

    def close(self) -> None:
        """Let go of the marks."""
        if self._marks is not None:
            self._marks.close()


def _event(key: Key, look: _Look, process: _Process) -> OpenEvent:
    pid, path = key
    start_ns, uid, comm, exec_ns = process
    time_ns = exec_ns - 1 if look.since_ns <= exec_ns <= look.at_ns else look.at_ns
    return OpenEvent(
        time_ns, pid, start_ns, uid, comm, path, resolved=True, flags=0, error=0, witness=True
    )


def begin(sensitive: Sequence[str], *, repeat_secs: float) -> Witness:
    """Set the marks, as root; where there can be none, say so."""
    marks = None
    try:
        marks = set_marks(sensitive)
    except OSError as error:
        log.warning("sensitive files have no marks of their own", why=str(error))
    else:
        numbers = {"files": len(marks.files), "folders": len(marks.folders)}
        if marks.left_out:
            log.warning(
                "some sensitive files have no marks of their own",
                left_out=marks.left_out,
                why=marks.why or "too many",
                **numbers,
            )
        else:
            log.info("sensitive files have marks of their own", **numbers)
    return Witness(marks, repeat_ns=int(repeat_secs * 1e9))
