"""Which files are sensitive.

An entry matches by whole path components, anywhere in the path: ``/etc/shadow`` is also
``/srv/chroot/etc/shadow`` and never ``/etc/shadow2``; ``/root/.ssh`` is everything beneath it;
``/.ssh/id_rsa`` is in every home. An entry with ``*`` or ``?`` is a glob over the whole path,
whose wildcards do not cross ``/``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from actors.detection.globs import compile_globs, is_glob
from actors.detection.text import is_short

_MAX_DIRECTORIES = 4096

DELIVER_ALL = ""
"""Among the names for the kernel's pre-filter: no name can decide, so every open is needed."""


class SensitivePaths:
    """The compiled list of sensitive files.

    Almost every path is not sensitive, and its directory alone says so. That answer is cached,
    within a bound, so a path never seen before costs a split and two look-ups.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        entries = tuple(_rooted(entry) for entry in entries)
        globs = [entry for entry in entries if is_glob(entry)]
        self._needles = tuple(f"{entry}/" for entry in entries if not is_glob(entry))
        self._globs = compile_globs(globs, cross_slash=False)
        wild = [glob.rpartition("/") for glob in globs if is_glob(glob.rpartition("/")[2])]
        self._wild_directories = compile_globs((parts[0] for parts in wild), cross_slash=False)
        self._last_names = frozenset(entry.rpartition("/")[2] for entry in entries)
        self._clean_directories: dict[str, bool] = {}

    def matches(self, path: str) -> bool:
        """Whether ``path``, absolute and without ``.`` and ``..``, is a sensitive file."""
        directory, _, name = path.rpartition("/")
        if name not in self._last_names:
            clean = self._clean_directories.get(directory)
            if clean is None:
                clean = self._learn(directory)
            if clean:
                return False
        return self._search(path)

    def matches_unresolved(self, text: str) -> bool:
        """Same for a path as a program wrote it: relative, or with ``.``, ``..`` and ``//``.

        Symbolic links cannot be followed here, nor the working directory known.
        """
        return self.matches(posixpath.normpath(f"/{text}").replace("//", "/"))

    def _learn(self, directory: str) -> bool:
        wild = self._wild_directories
        maybe = wild is not None and wild.match(directory) is not None
        clean = not maybe and not self._contains(directory)
        if is_short(directory):
            if len(self._clean_directories) >= _MAX_DIRECTORIES:
                self._clean_directories.clear()
            self._clean_directories[directory] = clean
        return clean

    def _contains(self, path: str) -> bool:
        slashed = f"{path}/"
        return any(needle in slashed for needle in self._needles)

    def _search(self, path: str) -> bool:
        if self._contains(path):
            return True
        return self._globs is not None and self._globs.match(path) is not None


def component_names(entries: Iterable[str]) -> frozenset[str]:
    """Return, per entry, the one path component that every matching path has.

    It is the entry's last component, or where that is a glob the nearest literal one above it.
    The kernel's pre-filter hashes these and delivers a path that has any of them *anywhere* (an
    entry may be a directory). An entry without a literal component gives ``DELIVER_ALL``.
    """
    return frozenset(
        next(
            (part for part in reversed(_rooted(entry).split("/")) if part and not is_glob(part)),
            DELIVER_ALL,
        )
        for entry in entries
    )


def _rooted(entry: str) -> str:
    return "/" + entry.strip("/")
