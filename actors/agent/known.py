"""What a correlator knew of processes, for the one that takes its place after a crash.

Only facts about processes are handed on, as the events that tell of them: what made the
predecessor crash may be in its windows and scores. /proc could not tell the same: by then the
agent has no right to look at the programs of others.
"""

from __future__ import annotations

from actors.detection.events import ExitEvent, SeedEvent
from actors.detection.process_table import ProcessTable


class Known:
    """Outlives correlators; holds the table of the latest one."""

    def __init__(self) -> None:
        self.table: ProcessTable | None = None

    def events(self) -> list[SeedEvent | ExitEvent]:
        """Every process of the table as a seed, parents first, then the ends of those that ended.

        Nothing where there was no correlator before.
        """
        if self.table is None:
            return []
        processes = sorted(self.table, key=lambda process: (process.identity[1], process.identity))
        seeds = [
            SeedEvent(
                time_ns=max(process.exec_ns, process.identity[1]),
                pid=process.identity[0],
                start_ns=process.identity[1],
                ppid=(process.parent or (0, 0))[0],
                parent_start_ns=(process.parent or (0, 0))[1],
                uid=process.uid,
                comm=process.program.comm,
                exe=process.program.exe,
                system_exe=process.program.system_exe,
                argv=(process.command_line,) if process.command_line else (),
            )
            for process in processes
        ]
        ends = [
            ExitEvent(process.exit_ns, *process.identity, exit_code=0, signal=0)
            for process in processes
            if process.exit_ns
        ]
        return [*seeds, *sorted(ends, key=lambda event: event.time_ns)]
