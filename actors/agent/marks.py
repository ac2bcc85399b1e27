"""Marks: fanotify on the host's own sensitive files and on their folders, set as root.

What the list names is looked for as it stands and in every home of ``/etc/passwd``. A file that is
there is marked itself, so all its names count; its folder is marked too, so that a file put in its
place is watched from the first moment. In a home only what is the home owner's is believed to be a
file of it, and no link may lead out of it: users do not choose what root watches.

Does not follow files into homes, or folders, that are made later.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from actors.detection.globs import compile_globs, is_glob
from actors.detection.paths import SensitivePaths
from bpf import fanotify

MARKS_MAX = 4096
"""Files and folders that are marked at most; what is left out is counted."""
_HOMES_MAX = 1024
_NAMES_MAX = 1024
"""Names of one folder that are looked at."""
_DEPTH_MAX = 4
"""How far a listed folder is marked downwards."""


def host_root() -> str:
    """Where the host's files are, as a prefix of their paths: we may run in a container."""
    with suppress(OSError):
        ours, theirs = (os.readlink(f"/proc/{whose}/ns/mnt") for whose in ("self", "1"))  # noqa: PTH115 - no path
        if ours != theirs and os.listdir("/proc/1/root"):  # noqa: PTH208 - only whether we may
            return "/proc/1/root"
    return ""


def homes(root: str) -> dict[str, int]:
    """Homes of people and services, and whose each is; never ``/`` itself."""
    found: dict[str, int] = {}
    with suppress(OSError):
        for line in Path(f"{root}/etc/passwd").read_text(errors="surrogateescape").splitlines():
            fields = line.split(":")
            if len(fields) > 5 and fields[5].strip("/"):
                with suppress(OSError, ValueError):
                    path = f"{root}/{fields[5].strip('/')}"
                    found[path] = os.stat(path).st_uid  # noqa: PTH116 - text, maybe not UTF-8
            if len(found) >= _HOMES_MAX:
                break
    return found


@dataclass
class Marks:
    """What is marked, by the keys under which notices name it."""

    group: fanotify.Group
    sensitive: SensitivePaths
    root: int
    """Descriptor of the host's root folder."""
    files: dict[bytes, str] = field(default_factory=dict)
    folders: dict[bytes, str] = field(default_factory=dict)
    left_out: int = 0
    """Files and folders that could not be marked, or were too many."""
    why: str = ""
    """Of the last one that could not."""

    def __len__(self) -> int:
        return len(self.files) + len(self.folders)

    def close(self) -> None:
        """Let go of all marks."""
        self.group.close()
        os.close(self.root)

    def add(self, path: str, *, owner: int | None, within: str) -> None:
        """Mark a file, or a listed folder with what is in it.

        Args:
            path: as we reach it.
            owner: whose it must be; None for anybody's.
            within: the folder that no link may lead out of.
        """
        self._add(path, owner, within, depth=0)

    def add_folder(self, path: str, *, owner: int | None, within: str) -> None:
        """Mark a folder for the sake of listed files that are in it or will be."""
        self._mark(path, owner, within)

    def _add(self, path: str, owner: int | None, within: str, depth: int) -> None:
        if self._mark(path, owner, within) and depth < _DEPTH_MAX:
            for name in _names(path):
                self._add(f"{path}/{name}", owner, within, depth + 1)

    def _mark(self, path: str, owner: int | None, within: str) -> bool:
        """Mark one file or folder; whether it is a folder."""
        try:
            with ExitStack() as opened:
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
                shown = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - no path
                found = os.fstat(descriptor)
                is_folder = stat.S_ISDIR(found.st_mode)
                foreign = owner not in {None, found.st_uid} or not f"{shown}/".startswith(within)
                if foreign or not (is_folder or stat.S_ISREG(found.st_mode)):
                    return False
                known = self.folders if is_folder else self.files
                key = fanotify.key_of(descriptor)
                if key in known:
                    return is_folder
                if len(self) >= MARKS_MAX:
                    self.left_out += 1
                    return False
                watch = self.group.watch_folder if is_folder else self.group.watch_file
                watch(descriptor)
                known[key] = _text(shown)
        except FileNotFoundError:
            return False
        except OSError as error:
            self.left_out += 1
            self.why = f"{_text(path)}: {error.strerror}"
            return False
        return is_folder


def _text(path: str) -> str:
    """As the probes' paths are decoded."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _names(folder: str) -> list[str]:
    with suppress(OSError):
        return sorted(os.listdir(folder))[:_NAMES_MAX]  # noqa: PTH208 - names alone
    return []


def find(folder: str, parts: Iterable[str]) -> Iterator[str]:
    """What is there of a path below ``folder`` whose parts may be globs."""
    name, *rest = parts
    names = [name]
    if is_glob(name):
        pattern = compile_globs((name,), cross_slash=False)
        names = [each for each in _names(folder or "/") if pattern and pattern.match(each)]
    for each in names:
        path = f"{folder}/{each}"
        if rest:
            yield from find(path, rest)
        elif os.path.lexists(path):
            yield path


def set_marks(entries: Collection[str], *, root: str | None = None) -> Marks:
    """Mark what is there of a list of sensitive files; for root only.

    Raises:
        OSError: this kernel has no such marks, or lets us have none.
    """
    root = host_root() if root is None else root
    marks = Marks(
        fanotify.Group(), SensitivePaths(entries), os.open(root or "/", os.O_PATH | os.O_CLOEXEC)
    )
    places: list[tuple[str, int | None, str]] = [(root, None, "/")]
    known = homes(root)
    for home, uid in known.items():
        with suppress(OSError):
            inside = os.open(home, os.O_PATH | os.O_CLOEXEC)
            shown = os.readlink(f"/proc/self/fd/{inside}")  # noqa: PTH115 - no path
            os.close(inside)
            places.append((home, uid, f"{shown}/"))
    for base, owner, within in places:
        there = set(_names(base or "/"))
        for entry in entries:
            parts = [part for part in entry.split("/") if part]
            if not is_glob(parts[0]) and parts[0] not in there:
                continue
            found = list(find(base, parts))
            for path in found:
                marks.add(path, owner=owner, within=within)
            for folder in find(base, parts[:-1]) if parts[1:] else [base or "/"]:
                # A home is a busy place: only where there is a listed file in it.
                if folder not in {*known, "/"} or any(map(os.path.isfile, found)):
                    marks.add_folder(folder, owner=owner, within=within)
    return marks
