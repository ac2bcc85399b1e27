"""Recordings: what the correlator saw, as a file that can stand in for the kernel.

JSON lines. The first is a header (format version, boot id, boot time, seeds); each further one is
the list of one sweep's events in the order in which detection took them. The same recording gives
the same alerts everywhere: on the endpoint, in a worker, in a back-test.

RecordingError: a file that cannot be read, is no recording, or is of another version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import structlog

from actors.detection.events import KernelEvent, SeedEvent

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

FORMAT = 1
_LINE_MAX_BYTES = 256 << 20


class RecordingError(Exception):
    """The file is not a recording this version can replay; names the line."""


class Header(msgspec.Struct, frozen=True):
    """First line of a recording."""

    lavender_recording: int
    """Version of this form."""
    boot_id: str
    """Which boot."""
    boot_unix_ns: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
    """Unix time of boot-time zero."""
    seeds: list[SeedEvent]
    """The processes that ran when it began."""
    hostname: Annotated[str, msgspec.Meta(max_length=255)] = ""
    """Whose it is; empty in older recordings."""


_decode_header = msgspec.json.Decoder(Header).decode
_decode_events = msgspec.json.Decoder(list[KernelEvent]).decode
_Undecodable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Recording:
    """A recording, open for reading from its beginning.

    Args:
        path: the file.

    Raises:
        RecordingError: it is none, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file, self.header = _open(path)
        self.damage: RecordingError | None = None
        """Why reading ended before the recording did, if so."""
        self._ended = False
        self._line = 1

    def __iter__(self) -> Iterator[list[KernelEvent]]:
        """Iterate over the sweeps that are left."""
        while (events := self.next_sweep()) is not None:
            yield events

    def next_sweep(self) -> list[KernelEvent] | None:
        """Return the next sweep's events; None at the end, or where the file is damaged.

        An unfinished last line, as a crash leaves it, is an end like any other. Damage is no
        error here: `damage` has it afterwards.
        """
        events = None if self._ended else self._next_line()
        self._ended = events is None
        return events

    def _next_line(self) -> list[KernelEvent] | None:
        self._line += 1
        try:
            line = self._file.readline(_LINE_MAX_BYTES)
            if line.endswith(b"\n"):
                return _decode_events(line)
        except (OSError, *_Undecodable) as error:
            self.damage = RecordingError(f"{self._path}: line {self._line}: {error}")
            return None
        if line:
            log.warning("recording ends in an unfinished line", path=str(self._path))
        return None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open(path: Path) -> tuple[BinaryIO, Header]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
    try:
        header = _decode_header(file.readline(_LINE_MAX_BYTES))
    except (OSError, *_Undecodable) as error:
        file.close()
        raise RecordingError(f"{path}: line 1: not a recording: {error}") from error
    if header.lavender_recording != FORMAT:
        file.close()
        raise RecordingError(
            f"{path}: recording format {header.lavender_recording}; this version replays {FORMAT}"
        )
    return file, header
