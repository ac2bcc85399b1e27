"""Lists of programs that are trusted with certain files and no others.

An entry ``passwd,chage:/etc/shadow,/etc/gshadow`` trusts these programs with these files, or with
what lies in these folders; they are written as in ``paths.py``. An entry without a file trusts a
program with every file. A program that reads what it is told to (an editor, ``ssh -F``, a shell's
``<``) must not be trusted with more than is its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from actors.detection.events import OpenEvent
from actors.detection.names import NameList, split_purpose
from actors.detection.paths import SensitivePaths
from actors.detection.programs import Program

_MAX_CACHED = 4096


class Purposes:
    """A compiled list; which of its files a program may open is cached, within a bound."""

    def __init__(self, entries: Iterable[str]) -> None:
        entries = tuple(entries)
        self._any_file = NameList(entries)
        self._purposes = [
            (NameList(names), SensitivePaths(files))
            for names, files in map(split_purpose, entries)
            if files
        ]
        self._own: dict[Program, tuple[SensitivePaths, ...]] = {}

    def trusts(self, program: Program, event: OpenEvent) -> bool:
        """Whether the program can be believed and may open this file.

        A file that a mount shows somewhere else than it lies must be allowed under both names.
        """
        if self._any_file.trusts(program):
            return True
        own = self._own.get(program)
        if own is None:
            own = tuple(paths for names, paths in self._purposes if names.trusts(program))
            if program.short:
                if len(self._own) >= _MAX_CACHED:
                    self._own.clear()
                self._own[program] = own
        return any(_allows(paths, event) for paths in own)


def _allows(paths: SensitivePaths, event: OpenEvent) -> bool:
    if not event.resolved:
        return paths.matches_unresolved(event.filename)
    return paths.matches(event.filename) and (not event.origin or paths.matches(event.origin))
