"""Where events come from: the kernel's rings, or (in `recording`) a file that stands in for them.

Both offer what the ring clock and the readers need, so that the same topology runs on either.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from actors.agent.enrich import Enricher
from actors.agent.seeds import read_seeds
from actors.agent.timer import Timer
from actors.agent.witness import Witness
from actors.detection.events import AnyEvent, ExecEvent, ExitEvent, ForkEvent, OpenEvent, SeedEvent
from bpf import decode
from bpf.attach import Attached
from bpf.control import Control, Counters
from bpf.errors import RecordError
from bpf.records import RINGS

WITNESS = "WITNESS_EVENTS"
"""Not a ring of the kernel's: opens that only marks have seen (`actors.agent.witness`)."""
RING_NAMES = (*(ring.map_name for ring in RINGS), WITNESS)
WINDOW_MAX_BYTES = 2 << 20
"""How much of a ring one turn decodes: bounds the memory of a batch."""
_URGENT = ("EXEC_EVENTS", "CONN_EVENTS", "CONN_MINOR")
"""Rings whose records wake an agent that waits for them."""
CROWDED_SECS = 0.001
"""Pause between two sweeps while sensitive files are opened all the time."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Decoder = Callable[[memoryview, Callable[..., Any]], tuple[list[Any], int]]


class Sensor(Protocol):
    """A source of events in rings."""

    boot_id: str
    boot_unix_ns: int
    hostname: str
    """Unix time, nanoseconds, at which the boot clock was zero."""
    live: bool
    """False for a recording: there is nothing to respond to."""
    load_id: str
    """One life of the probes, 16 hexadecimal digits; outlives a crash of the agent."""
    taken_over: bool
    """The probes are an earlier agent's, which went on filling the rings when it crashed."""
    start_gap: str | None
    """Why nothing watched before this start, in a few fixed words; None if taken over."""

    @property
    def read_count(self) -> int:
        """Events read from all rings since this agent started; what is read again counts once."""

    def seeds(self) -> Sequence[SeedEvent]:
        """The processes that run before the first event."""

    async def wait(self, tick_secs: float, *, urgent: bool) -> bool:
        """Wait until something must be seen at once (True) or a tick has passed (False).

        That is a sensitive open, a ring that fills, and, if ``urgent``, an execution or connection.
        """

    async def rest(self, pause_secs: float) -> None:
        """Pause between two sweeps, cut short by a sensitive open or a ring that fills."""

    def snapshot(self) -> Mapping[str, int] | None:
        """How far each ring is filled now, empty ones left out; None at the end of a recording."""

    def read(self, ring: str, limit: int) -> Sequence[AnyEvent]:
        """Decode a ring up to ``limit``; until `commit` the same is read again."""

    def commit(self, ring: str) -> None:
        """Take what `read` decoded for read; a ring that is held keeps it until `release`."""

    def positions(self) -> Mapping[str, int]:
        """How far each ring has been read, the last `read` included.

        A position means something to this load of the probes only.
        """

    def release(self, positions: Mapping[str, int]) -> None:
        """Give back what lies before these positions: it is safe elsewhere."""

    def resume(self, positions: Mapping[str, int]) -> Sequence[str]:
        """Read on from where an earlier agent's events were safe; call before the first `read`.

        Returns:
            The rings that do not hold those positions, and are read from where they begin.
        """

    def ignore(self, event: ExecEvent) -> None:
        """Ask for no more opens and connects of a process while it runs what it executed here."""

    def counters(self) -> dict[str, dict[str, int]]:
        """The probes' counters, by probe."""


class NoSensor:
    """Nothing to sense: lets a topology be checked and shown before anything is attached."""

    boot_id = ""
    boot_unix_ns = 0
    hostname = ""
    live = False
    load_id = "0" * 16
    taken_over = False
    start_gap: str | None = None
    read_count = 0

    def seeds(self) -> Sequence[SeedEvent]:
        """None."""
        return ()

    async def wait(self, tick_secs: float, *, urgent: bool) -> bool:  # noqa: ARG002 - as the protocol
        """Not wait."""
        await trio.lowlevel.checkpoint()
        return False

    async def rest(self, pause_secs: float) -> None:  # noqa: ARG002 - same
        """Not wait."""
        await trio.lowlevel.checkpoint()

    def snapshot(self) -> Mapping[str, int] | None:
        """The end."""
        return None

    def read(self, ring: str, limit: int) -> Sequence[AnyEvent]:  # noqa: ARG002 - same
        """Nothing."""
        return ()

    def commit(self, ring: str) -> None:
        """Nothing."""

    def positions(self) -> Mapping[str, int]:
        """The beginning: what has no probes is not read on from anywhere."""
        return dict.fromkeys(RING_NAMES, 0)

    def release(self, positions: Mapping[str, int]) -> None:
        """Nothing."""

    def resume(self, positions: Mapping[str, int]) -> Sequence[str]:
        """Nothing."""
        return list(positions)

    def ignore(self, event: ExecEvent) -> None:
        """Nothing."""

    def counters(self) -> dict[str, dict[str, int]]:
        """None."""
        return {}


class KernelSensor:
    """The real thing: rings, counters and policy of attached probes.

    Args:
        attached: descriptors from the loader.
        enricher: completes exec and connect events.
        witness: of opens that no probe tells of; None for none.
        hold: leave it to `release` when the kernel gets a ring's space back; else `commit` does it.
    """

    live = True

    def __init__(
        self,
        attached: Attached,
        enricher: Enricher,
        *,
        witness: Witness | None = None,
        hold: bool = False,
    ) -> None:
        self._enricher = enricher
        self.load_id = attached.load_id
        self.taken_over = attached.taken_over
        self.start_gap = attached.gap
        self._hold = hold
        self._enricher = enricher
        self.boot_id = BOOT_ID.read_text().strip()
        self.hostname = socket.gethostname()[:255]
        self.boot_unix_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._first_seeds: Sequence[SeedEvent] = read_seeds(enricher.host)
        self._rings = attached.rings()
        self._decoders: dict[str, tuple[Decoder, Callable[..., Any]]] = {
            "FORK_EVENTS": (decode.decode_forks, ForkEvent),
            "EXEC_EVENTS": (decode.decode_execs, enricher.exec_event),
            "EXIT_EVENTS": (decode.decode_exits, ExitEvent),
            "OPEN_EVENTS": (decode.decode_opens, OpenEvent),
            "CONN_EVENTS": (decode.decode_connects, enricher.connect_event),
            "LISTEN_EVENTS": (decode.decode_listens, enricher.listen_event),
            "EXEC_MINOR": (decode.decode_execs, enricher.exec_event),
            "OPEN_MINOR": (decode.decode_opens, OpenEvent),
            "CONN_MINOR": (decode.decode_connects, enricher.connect_event),
            "FLOOD_EVENTS": (decode.decode_floods, enricher.flood_event),
        }
        self._witness = witness or Witness(None)
        self._witness.learn_seeds(self._first_seeds)
        self._taken = dict.fromkeys(RING_NAMES, (0, 0))  # bytes and events, until the commit
        self._committed_count = 0
        self.control = Control(attached.descriptors["CONTROL"])
        self._counters = Counters(attached.descriptors["COUNTERS"], attached.cpus)
        self._timer = Timer()
        self._epoll = select.epoll()
        watched = [self._timer.descriptor, *(ring.descriptor for ring in self._rings.values())]
        for descriptor in [*watched, *self._witness.descriptors]:
            # Edge-triggered: quiet records make a ring readable, but only a wake-up is an edge.
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    def seeds(self) -> Sequence[SeedEvent]:
        """The processes of /proc as they were at the start, until events flow; then none.

        They are read as root: later, the programs of others are not the agent's to see.
        """
        return self._first_seeds

    async def wait(self, tick_secs: float, *, urgent: bool) -> bool:
        """Wait for a probe's wake-up, or a tick."""
        if self._was_called() or (urgent and self._has_urgent()):
            await trio.lowlevel.checkpoint_if_cancelled()
            return True
        self.control.set_waiting(urgent)
        try:
            self._timer.after(tick_secs)
            # What a probe has written before it could know that we wait has woken nobody. It had
            # several microseconds to do so, and it cannot be preempted.
            if urgent and self._has_urgent():
                await trio.lowlevel.checkpoint_if_cancelled()
                return True
            await trio.lowlevel.wait_readable(self._epoll.fileno())
        finally:
            self.control.set_waiting(False)
        return self._was_called()

    async def rest(self, pause_secs: float) -> None:
        """Pause until the time has passed or a probe calls.

        If one has called already they come faster than sweeps go round; then some may gather.
        """
        if self._was_called():
            self._timer.after(min(pause_secs, CROWDED_SECS))
            await trio.lowlevel.wait_readable(self._timer.descriptor)
        else:
            self._timer.after(pause_secs)
            await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _was_called(self) -> bool:
        """Whether a probe has called since this was last asked."""
        timer = self._timer.descriptor
        return any(descriptor != timer for descriptor, _ in self._epoll.poll(0))

    def _has_urgent(self) -> bool:
        return any(self._rings[ring].pending_bytes() for ring in _URGENT)

    def snapshot(self) -> Mapping[str, int] | None:
        """Bytes that wait in each ring, and how many events the witness has ready."""
        self._first_seeds = ()
        waiting = {name: ring.pending_bytes() for name, ring in self._rings.items()}
        waiting[WITNESS] = self._witness.look()
        return {name: size for name, size in waiting.items() if size}

    def read(self, ring: str, limit: int) -> Sequence[AnyEvent]:
        """Decode at most ``limit`` bytes.

        Raises:
            RecordError: corrupt records; what was seen of the ring is then skipped by `commit`.
        """
        if ring == WITNESS:
            told = self._witness.read(limit)
            self._taken[ring] = (0, len(told))
            return told
        decoder, make = self._decoders[ring]
        with self._rings[ring].window(min(limit, WINDOW_MAX_BYTES)) as window:
            try:
                events, size = decoder(window, make)
            except RecordError:
                self._taken[ring] = (len(window), 0)
                raise
        self._taken[ring] = (size, len(events))
        self._witness.learn(ring, events)
        return events

    def commit(self, ring: str) -> None:
        """Move the read position, and the consumer position with it unless rings are held."""
        size, events = self._taken[ring]
        self._taken[ring] = (0, 0)
        self._committed_count += events
        if ring == WITNESS:
            self._witness.commit(events)
            return
        self._rings[ring].advance(size)
        if not self._hold:
            self._rings[ring].release(self._rings[ring].read_position)

    def positions(self) -> Mapping[str, int]:
        """The read positions."""
        found = {
            name: ring.read_position + self._taken[name][0] for name, ring in self._rings.items()
        }
        found[WITNESS] = self._witness.position + self._taken[WITNESS][1]
        return found

    @property
    def read_count(self) -> int:
        """Counted by `read`, for good by `commit`."""
        return self._committed_count + sum(events for _, events in self._taken.values())

    def release(self, positions: Mapping[str, int]) -> None:
        """Move the consumer positions, as far as is committed."""
        for name, position in positions.items():
            if name != WITNESS:
                self._rings[name].release(position)

    def let_go(self) -> None:
        """Hold nothing any more: nobody is going to call `release`."""
        self._hold = False

    def resume(self, positions: Mapping[str, int]) -> Sequence[str]:
        """Move both positions of each ring that holds the given one; the others' names."""
        self._witness.resume(positions.get(WITNESS, 0))
        return [
            name
            for name, position in positions.items()
            if name != WITNESS
            and (name not in self._rings or not self._rings[name].resume(position))
        ]

    def ignore(self, event: ExecEvent) -> None:
        """Put the program on the kernel's list, and on the witness's."""
        exec_id = self._enricher.exec_id(event)
        if exec_id is not None:
            self.control.ignore(*event.identity, exec_id)
            self._witness.ignore(event)

    def counters(self) -> dict[str, dict[str, int]]:
        """Summed over processors, read without a system call; the witness's beside them."""
        return {**self._counters.read(), "witness": self._witness.counters()}

    def close(self) -> None:
        """Unmap; the descriptors, and with them the probes, stay the caller's."""
        self._epoll.close()
        self._timer.close()
        self._witness.close()
        for ring in self._rings.values():
            ring.close()
        self.control.close()
        self._counters.close()
