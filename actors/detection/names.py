"""Lists of program names, as people write them in the settings.

An entry is a whole name. ``*`` and ``?`` are globs. An entry with ``/`` is matched against the
executable's path, where ``*`` crosses ``/``; without globs also against the path of a script in a
system folder, which the kernel was given to execute. An entry ``name:/file`` is not about a program
as such but about one and a file: see ``purposes.py``.

A list is used in one of two ways. One that *detects* matches any name the program goes by, so an
attacker gains nothing by calling his program something else. One that *trusts* (exempts,
protects) believes only the executable's own name, and only when the file lies where nobody but
root could have put it.
"""

from __future__ import annotations

from collections.abc import Iterable

from actors.detection.globs import compile_globs, is_glob
from actors.detection.programs import Program

_MAX_CACHED = 4096
_MERGED = ("/bin/", "/sbin/", "/lib")
"""Folders that are links into ``/usr`` today."""
_SCRIPT_FOLDERS = ("/usr/", "/opt/")


def split_purpose(entry: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the programs and the files of an entry; without files it names one program."""
    names, colon, files = entry.partition(":/")
    if not colon or not names:
        return (entry,), ()
    return tuple(names.split(",")), tuple(f"/{files}".split(","))


class NameList:
    """A compiled list of program names; its answers are cached, within a bound."""

    def __init__(self, entries: Iterable[str]) -> None:
        entries = tuple(entry for entry in entries if not split_purpose(entry)[1])
        self._exact = frozenset(entry for entry in entries if not is_glob(entry))
        globs = [entry for entry in entries if is_glob(entry)]
        self._name_globs = compile_globs((g for g in globs if "/" not in g), cross_slash=True)
        self._path_globs = compile_globs((g for g in globs if "/" in g), cross_slash=True)
        self._detected: dict[Program, bool] = {}
        self._trusted: dict[Program, bool] = {}

    def detects(self, program: Program) -> bool:
        """Whether any name of the program, or a path it was started by, is on the list."""
        answer = self._detected.get(program)
        if answer is None:
            answer = any(map(self._has_name, program.names)) or any(
                map(self._has_path, (program.exe, program.filename))
            )
            _remember(self._detected, program, answer=answer)
        return answer

    def trusts(self, program: Program) -> bool:
        """Whether the program's executable is on the list and can be believed."""
        answer = self._trusted.get(program)
        if answer is None:
            answer = program.system_exe and (
                self._has_name(program.exe_name)
                or self._has_path(program.exe)
                or self._has_script(program.filename)
            )
            _remember(self._trusted, program, answer=answer)
        return answer

    def _has_name(self, name: str) -> bool:
        if not name or "/" in name:
            return False
        globs = self._name_globs
        return name in self._exact or (globs is not None and globs.match(name) is not None)

    def _has_path(self, path: str) -> bool:
        if "/" not in path:
            return False
        globs = self._path_globs
        return path in self._exact or (globs is not None and globs.match(path) is not None)

    def _has_script(self, filename: str) -> bool:
        path = f"/usr{filename}" if filename.startswith(_MERGED) else filename
        return path in self._exact and path.startswith(_SCRIPT_FOLDERS) and "/../" not in path


def _remember(cache: dict[Program, bool], program: Program, *, answer: bool) -> None:
    if not program.short:
        return
    if len(cache) >= _MAX_CACHED:
        cache.clear()
    cache[program] = answer
