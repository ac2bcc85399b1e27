"""An event as rules see it: with the process that did it, and what is remembered of its host."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

import msgspec

from actors.detection.conditions import EventType
from actors.detection.contacts import Contact
from actors.detection.events import ConnectEvent, ExecEvent, FloodEvent, OpenEvent
from actors.detection.process_table import ProcessTable
from actors.detection.processes import Process
from actors.detection.programs import Program

ObservedEvent: TypeAlias = ExecEvent | OpenEvent | ConnectEvent | FloodEvent

TYPE_OF: dict[type, EventType] = {
    ExecEvent: "exec",
    OpenEvent: "open",
    ConnectEvent: "connect",
    FloodEvent: "flood",
}
"""The word for an event that rules can be about."""
_MAX_CALLERS = 8192


class Callers:
    """The programs that have used the network; the one first seen goes first."""

    def __init__(self) -> None:
        self.known: OrderedDict[bytes, None] = OrderedDict()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self.known)

    def is_first(self, key: bytes) -> bool:
        """Whether the program of this digest was never seen on the network; from now on it was."""
        if key in self.known:
            return False
        self.known[key] = None
        if len(self.known) > _MAX_CALLERS:
            self.known.popitem(last=False)
            self.dropped += 1
        return True

    def forget_last(self) -> None:
        """Forget the program that was the last to be new."""
        self.known.popitem()


class HostState(msgspec.Struct, gc=False):
    """What rules may ask of the host on which an event happened."""

    hostname: str
    table: ProcessTable
    callers: Callers


class Observation(msgspec.Struct, gc=False):
    """An event with the process that did it."""

    event: ObservedEvent
    process: Process
    program: Program
    """What the process runs; for an exec, the new program."""
    host: HostState
    launcher: Program | None = None
    """For an exec, the program that made it; None when nothing is known of it."""
    initiator: Program | None = None
    """For an exec, the launcher, or if that is a pass-through program who started it."""
    contact: Contact | None = None
    """For an exec, the connections and pipes of the process until then; for others, its own."""
    parent_program: Program | None = None
    """What the process that started it runs, where a rule asks for it."""
    note: str = ""
    """What a check found, for the alert's sentence."""
    texts: dict[str, str | None] | None = None
    """Texts of fields that were asked for already, folded."""
    first_call: bool | None = None
    """Whether the program was never seen on the network; None until it is asked."""

    @property
    def parent(self) -> Process | None:
        """The process that started this one, while it is known."""
        return self.host.table.parent(self.process)
