"""Who made an execution, and who is responsible for it.

The *launcher* made the call. The *initiator* is the launcher, but for a pass-through program (env,
xargs, make: what it runs is what it was told to) whoever started that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from actors.detection.contacts import Contact
from actors.detection.events import ExecEvent
from actors.detection.processes import Process
from actors.detection.programs import Program


class Launch(NamedTuple):
    """An execution as the process table has noted it."""

    launcher: Program | None
    """None when it is not known."""
    initiator: Program | None
    process: Process
    program: Program
    """What the exec names: if the event is late, the process runs something else by now."""
    contact: Contact | None
    """The connections and pipes of the process until then."""


class Launchers:
    """Finds launchers and initiators.

    Args:
        passes: Whether a program is a pass-through program.
    """

    def __init__(self, passes: Callable[[Program], bool]) -> None:
        self.passes = passes

    def of(
        self, event: ExecEvent, process: Process | None, forker: Process | None
    ) -> tuple[Program | None, Program | None]:
        """Return launcher and initiator: of what the process exec'd before, or else inherited.

        Args:
            event: The execution.
            process: Who does it, as it was before.
            forker: Its parent, if that is known.
        """
        if process is not None:
            if process.exec_ns > event.time_ns:
                return None, None
            if process.program.exe:
                return process.program, self.initiator(process)
        # What the parent started after the fork was not inherited.
        if forker is not None and forker.exec_ns <= event.start_ns:
            return forker.program, self.initiator(forker)
        if process is None or not process.program.comm:
            return None, None
        return process.program, process.program

    def initiator(self, process: Process | None) -> Program | None:
        """Return who is responsible for what a process starts."""
        if process is None:
            return None
        return process.initiator if self.passes(process.program) else process.program
