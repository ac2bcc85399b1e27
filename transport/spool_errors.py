"""The spool's errors.

SpoolError: something is wrong with the spool; the text names it
├── SpoolFull: there is no room now; the same call may succeed later
├── SpoolInUse: another process has it
└── SpoolCorrupt: the file is damaged; opened anew, it is set aside
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DAMAGE = frozenset(
    (
        *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT),
        *(sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_READ),
    )
)
"""Result codes that speak of the file, not of the disk's room or somebody's rights."""


class SpoolError(Exception):
    """Something is wrong with the spool; the text names it. Nothing was changed."""


class SpoolFull(SpoolError):  # noqa: N818 - it says what is so
    """The disk is full; nothing was written, and the same call may succeed later."""


class SpoolInUse(SpoolError):  # noqa: N818 - it says what is so
    """Another process has this spool."""


class SpoolCorrupt(SpoolError):  # noqa: N818 - it says what is so
    """The file is damaged; opened anew, it is set aside."""


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Raise SQLite's errors as what they mean here."""
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(error, f"cannot {doing} {path}") from error


def _meaning(error: sqlite3.Error, what: str) -> SpoolError:
    # An error raised by Python's module itself has no code: a closed connection, a huge integer.
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = f"{what}: {error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
    if is_damage(error):
        return SpoolCorrupt(f"{text}; opened anew, it is set aside")
    if primary == sqlite3.SQLITE_FULL:
        return SpoolFull(f"{text}; make room on its disk")
    if primary == sqlite3.SQLITE_BUSY:
        return SpoolInUse(f"{text}; close the program that has it open")
    return SpoolError(text)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error speaks of the file itself."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in _DAMAGE or code & 0xFF in _DAMAGE
