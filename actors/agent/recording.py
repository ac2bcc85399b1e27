"""The recorder, which writes recordings, and the sensor that reads them in the kernel's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import trio

from actors.agent.messages import EventLog
from actors.agent.sensor import RING_NAMES, NoSensor, Sensor
from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    FloodEvent,
    ForkEvent,
    ListenEvent,
    OpenEvent,
    SeedEvent,
)
from actors.recordings import FORMAT, Header, Recording, RecordingError
from actors.runtime import Actor

_GATHERED_MAX = 4096
_GATHERED_MAX_BYTES = 4 << 20
"""Events, and bytes, that are written at once, one sweep more or less."""
_RING_OF: dict[type, str] = {
    ForkEvent: "FORK_EVENTS",
    ExecEvent: "EXEC_EVENTS",
    ExitEvent: "EXIT_EVENTS",
    OpenEvent: "OPEN_EVENTS",
    ConnectEvent: "CONN_EVENTS",
    ListenEvent: "LISTEN_EVENTS",
    FloodEvent: "FLOOD_EVENTS",
}

_encode = msgspec.json.Encoder().encode


class Recorder(Actor):
    """Writes what the correlator tells it to a file; without a file it has nothing to do.

    A full disk costs events of the recording, counted, never detection.

    Args:
        sensor: for the header.
        file: open for writing, or None.
    """

    accepts = (EventLog,)

    def __init__(self, *, sensor: Sensor, file: BinaryIO | None) -> None:
        self._sensor = sensor
        self._file = file
        self._header = b""
        self._gathered: list[bytes] = []
        self._gathered_events = 0
        self._gathered_bytes = 0
        self._failing = False
        self.events_dropped = 0

    async def start(self) -> None:
        """Write the header, unless a predecessor has."""
        await super().start()
        if self._file is not None and self._file.tell() == 0:
            sensor = self._sensor
            header = Header(
                FORMAT, sensor.boot_id, sensor.boot_unix_ns, list(sensor.seeds()), sensor.hostname
            )
            self._header = _encode(header) + b"\n"
            await self._write()

    async def handle(self, message: EventLog) -> None:
        """Append one sweep, together with those that wait behind it."""
        line = _encode(message.events) + b"\n"
        self._gathered.append(line)
        self._gathered_events += len(message)
        self._gathered_bytes += len(line)
        few = self._gathered_events < _GATHERED_MAX and self._gathered_bytes < _GATHERED_MAX_BYTES
        if self.context.mailbox.depth and few:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._write()

    async def stop(self) -> None:
        """Write what was gathered, and say how much is missing."""
        await self._write()
        if self.events_dropped:
            self.context.log.error("recording is incomplete", events_dropped=self.events_dropped)
        await super().stop()

    async def _write(self) -> None:
        """Append what was gathered, after the header if that is not there; all of it or nothing.

        Cancelled, it still waits for the disk.
        """
        await trio.lowlevel.checkpoint()
        lines, events = self._gathered, self._gathered_events
        self._gathered, self._gathered_events, self._gathered_bytes = [], 0, 0
        if self._file is None or not (self._header or lines):
            return
        try:
            # In a thread: a disk can keep a write waiting.
            await trio.to_thread.run_sync(_append, self._file, b"".join((self._header, *lines)))
            self._header = b""
            self._failing = False
        except OSError as error:
            self.events_dropped += events
            if not self._failing:
                self._failing = True
                self.context.log.error(  # noqa: TRY400 - a full disk is no bug: no traceback
                    "recording fails; events are missing", why=str(error)
                )


def _append(file: BinaryIO, data: bytes) -> None:
    """Write all of it, or leave the file as it was."""
    whole = file.tell()
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        file.seek(whole)
        with suppress(OSError):  # a device has no end to cut off
            file.truncate()
        raise


class RecordedSensor(NoSensor):
    """A recording in the place of the rings; it has no probes and no positions.

    Args:
        path: the recording.

    Raises:
        RecordingError: it is none, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._recording = Recording(path)
        self.boot_id = self._recording.header.boot_id
        self.boot_unix_ns = self._recording.header.boot_unix_ns
        self.hostname = self._recording.header.hostname
        self._sweep: dict[str, list[AnyEvent]] = {}

    @property
    def damage(self) -> RecordingError | None:
        """Why the replay ended before the recording did, if so."""
        return self._recording.damage

    def seeds(self) -> Sequence[SeedEvent]:
        """The processes that ran when the recording began."""
        return self._recording.header.seeds

    async def wait(self, tick_secs: float, *, urgent: bool) -> bool:  # noqa: ARG002 - a recording has no pace
        """Not wait: a replay runs as fast as it can."""
        await trio.lowlevel.checkpoint()
        return True

    async def rest(self, pause_secs: float) -> None:  # noqa: ARG002 - same
        """Not rest."""
        await trio.lowlevel.checkpoint()

    def snapshot(self) -> Mapping[str, int] | None:
        """Take up the next sweep of the file; None at its end, or where it is damaged.

        Damage is no error here: a restart of the reader's would not mend it.
        """
        events = self._recording.next_sweep()
        if events is None:
            return None
        self._sweep = {}
        for event in events:
            self._sweep.setdefault(_RING_OF[type(event)], []).append(event)
        return {ring: len(self._sweep[ring]) for ring in RING_NAMES if ring in self._sweep}

    def read(self, ring: str, limit: int) -> Sequence[AnyEvent]:
        """The ring's part of the sweep."""
        return self._sweep.get(ring, [])[:limit]

    def commit(self, ring: str) -> None:
        """Forget it."""
        self._sweep.pop(ring, None)

    def ignore(self, event: ExecEvent) -> None:
        """Nothing: what was ignored then is not in the file."""

    def close(self) -> None:
        """Close the file."""
        self._recording.close()
