"""What the fields of a log record are here: an event's field, a known answer, or nothing.

Sigma's rules name the fields of the records that some logger writes. A `View` is one kind of such
record as one kind of event can stand for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from actors.detection.conditions import EventType, Test
from services.detection.sigma.folding import Folded

U32_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the event."""

    name: str
    kind: Literal["text", "number", "address"] = "text"
    present: bool = False
    """It has a value in every event of the view."""
    least: int = 0
    most: int = U32_MAX
    """Of a number."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A field with few possible texts; each is true of an event under its own condition."""

    answers: Mapping[str, Folded]
    elsewhere: frozenset[str] = frozenset()
    """Texts that other views answer, so that nothing is missing when this one does not."""
    other: str = ""
    """Why any other text cannot be served; ``{}`` stands for the text."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Records of this kind have no such field: it is null."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unserved:
    """Such records may have it, but Lavender's events do not tell."""

    reason: str
    misspelt: bool = False
    """It is a field that Lavender has, but for a letter."""


Lookup: TypeAlias = Field | Choice | Absent | Unserved


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One kind of record, as one type of event stands for it."""

    event: EventType
    base: tuple[Test, ...]
    """What must hold for an event to stand for such a record at all."""
    fields: Mapping[str, Lookup]
    missing: Callable[[str], Lookup]
    """What a field that is not listed is."""
    text: Lookup = field(default_factory=lambda: Field("text"))
    """What keywords are looked for in."""

    def lookup(self, name: str) -> Lookup:
        """Return what a field of the record is."""
        return self.fields.get(name) or self.missing(name)
