"""What an alert is about: a file, an address, a program; and whether a file is the host's own.

A file matches a list of sensitive ones by the end of its path, so anybody can have look-alikes of
it. The host's own is the one at the place that the list names: it must not be lost among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from actors.detection.alerts import event_text
from actors.detection.correlator import Chain
from actors.detection.events import OpenEvent
from actors.detection.globs import is_glob
from actors.detection.observation import TYPE_OF, ObservedEvent
from actors.detection.text import printable

_MAX_TEXT = 200
_DIGEST_BYTES = 8


class Rank(IntEnum):
    """How much a target is to be told for itself."""

    OTHER = 0
    """A program, an address, or a file that anybody can have made."""
    OWN = 1
    """A file where the host's own are: in a home, or in a folder that is listed."""
    LISTED = 2
    """A file whose path is on the list as it stands."""


class Target(NamedTuple):
    """One thing that a rule fires on."""

    text: str
    """Printable, cut."""
    digest: bytes
    """Of all of it."""
    rank: Rank


class Targets:
    """Says what events are about.

    Args:
        sensitive_files: what ``[filters]`` lists, guarded files too.
    """

    def __init__(self, sensitive_files: Iterable[str]) -> None:
        plain = ["/" + entry.strip("/") for entry in sensitive_files if not is_glob(entry)]
        self._listed = frozenset(plain)
        self._folders = tuple(f"{entry}/" for entry in plain if not entry.startswith("/."))
        self._in_homes = tuple(entry for entry in plain if entry.startswith("/."))

    def of_event(self, event: ObservedEvent) -> Target:
        """What one event is about; a failed open names what its caller wrote, not a file."""
        text = event_text(event)
        kind: str = TYPE_OF[type(event)]
        rank = Rank.OTHER
        if isinstance(event, OpenEvent):
            if not event.resolved:
                kind = "unresolved"
            elif event.origin:
                rank = min(self._rank(event.origin), Rank.OWN)
            else:
                rank = self._rank(text)
        return _target(kind, text, rank)

    def of_links(self, links: Chain) -> Target | None:
        """What a sequence is about: the files and addresses of its steps, if it has any."""
        touched = [each for each in links if each.type != "exec"]
        if not touched:
            return None
        ranks = [self._rank(each.text) for each in touched if each.type == "open"]
        text = ", ".join(dict.fromkeys(each.text for each in touched))
        return _target("sequence", text, max(ranks, default=Rank.OTHER))

    def _rank(self, path: str) -> Rank:
        if path in self._listed:
            return Rank.LISTED
        if path.startswith(self._folders):
            return Rank.OWN
        home = "/".join(path.split("/", 3)[:3]) if path.startswith("/home/") else "/root"
        inside = path.removeprefix(home)
        if inside != path and any(
            inside == entry or inside.startswith(f"{entry}/") for entry in self._in_homes
        ):
            return Rank.OWN
        return Rank.OTHER


def _target(kind: str, text: str, rank: Rank) -> Target:
    whole = f"{kind} {text}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).digest()
    return Target(printable(text, limit=_MAX_TEXT), digest, rank)
