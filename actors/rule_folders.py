"""The files of a folder of rules: which there are, and whether they have changed.

Kubernetes mounts a folder whose files are links into a hidden one, ``..data``, that is exchanged as
a whole; editors keep hidden folders too. What is hidden is not looked into, and a file that can be
reached in several ways is one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

from actors.detection.rulefile import RuleFileError

FILES_MAX = 10_000


def find_files(paths: Iterable[Path], suffixes: Iterable[str]) -> list[Path]:
    """Rule files among paths: files themselves, and those anywhere in folders, in order of name.

    Raises:
        RuleFileError: A path is not there, or there are too many.
    """
    wanted = set(suffixes)
    found: list[Path] = []
    for path in paths:
        if _is_folder(path):
            found += [each for each in _beneath(path) if each.suffix in wanted]
        else:
            found.append(path)
    if len(found) > FILES_MAX:
        raise RuleFileError(str(found[0].parent), 0, f"has more than {FILES_MAX} rule files")
    return found


def passed_over(paths: Iterable[Path], suffixes: Iterable[str]) -> list[Path]:
    """The files in folders that `find_files` leaves out for the ends of their names, in order.

    Raises:
        RuleFileError: A path is not there, or cannot be read.
    """
    wanted = set(suffixes)
    folders = [path for path in paths if _is_folder(path)]
    found = [each for path in folders for each in _beneath(path) if each.suffix not in wanted]
    return [each for each in found if not each.is_dir()]


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise RuleFileError(str(path), 0, "is not there") from error
    except OSError as error:
        raise RuleFileError(str(path), 0, f"cannot be read: {error.strerror}") from error


def _beneath(folder: Path) -> list[Path]:
    """The files in a folder and the folders in it, in order of name; each once, nothing hidden.

    With those folders whose names have an end, as files have.

    Raises:
        RuleFileError: the folder itself cannot be read; those in it that cannot are passed over.
    """
    waiting = [str(folder)]
    known: set[tuple[int, int]] = set()
    plain: list[str] = []
    linked: list[str] = []
    while waiting:
        path = waiting.pop()
        try:
            if _is_known(path, known):
                continue
            entries = [each for each in os.scandir(path) if not each.name.startswith(".")]
        except OSError as error:
            if path == str(folder):
                why = f"cannot be read: {error.strerror}"
                raise RuleFileError(path, 0, why) from error
            continue
        for each in entries:
            is_folder = _leads_to_folder(each)
            if is_folder:
                waiting.append(each.path)
            if not is_folder or "." in each.name:  # one that is named like a file is told
                (linked if each.is_symlink() else plain).append(each.path)
    return sorted(map(Path, (*plain, *_others(linked, plain))))


def _others(linked: Iterable[str], plain: Iterable[str]) -> list[str]:
    """Those links that lead to no file that is among the plain ones, or among them twice."""
    linked = sorted(linked)
    known: set[tuple[int, int]] = set()
    if linked:
        for path in plain:
            with suppress(OSError):
                _is_known(path, known)
    found = []
    for path in linked:
        try:
            if _is_known(path, known):
                continue
        except OSError:  # where it leads there is nothing; that is for the reader to say
            pass
        found.append(path)
    return found


def _is_known(path: str, known: set[tuple[int, int]]) -> bool:
    """Whether what a path leads to is known; from now on it is."""
    status = os.stat(path)  # noqa: PTH116 - a tenth of the time
    key = (status.st_dev, status.st_ino)
    if key in known:
        return True
    known.add(key)
    return False


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def fingerprint(
    folder: Path | None, suffixes: Iterable[str]
) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when a file of a folder does: names, inodes, times and sizes.

    Raises:
        RuleFileError: the folder cannot be read.
    """
    if not is_there(folder):
        return ()
    seen = []
    for path in find_files([folder], suffixes):
        try:
            status = path.stat()
        except OSError:  # it has gone meanwhile
            continue
        seen.append((str(path), status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(seen)


def is_there(folder: Path | None) -> TypeGuard[Path]:
    """Whether there is such a folder.

    Raises:
        RuleFileError: that cannot be known.
    """
    if folder is None:
        return False
    try:
        folder.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RuleFileError(str(folder), 0, f"cannot be read: {error.strerror}") from error
    return True


def read_file(path: Path, most: int) -> bytes:
    """The content of a file of at most so many bytes.

    Raises:
        RuleFileError: it is none, is larger, or cannot be read.
    """
    try:
        # Not blocking: what is called a rule file may be a pipe that nobody writes to.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RuleFileError(str(path), 0, "is no file")
            raw = file.read(most + 1)
    except OSError as error:
        raise RuleFileError(str(path), 0, f"cannot be read: {error.strerror}") from error
    if len(raw) > most:
        raise RuleFileError(str(path), 0, f"is larger than {most >> 20} MiB, the most allowed")
    return raw
