"""Refusals: why a Sigma document gives no rule, by whose fault.

::

    Refused
    ├── Invalid       the document is broken: its author's to mend
    └── Unsupported   valid Sigma that Lavender's events cannot serve
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from actors.detection import rulefile

Kind: TypeAlias = Literal["unsupported", "invalid"]

_REASON_MAX = 400


class Refused(Exception):  # noqa: N818 - what happened to the rule; the caller did nothing wrong
    """A document gives no rule; the message is the reason."""

    kind: Kind = "invalid"

    def __init__(self, reason: object, *, line: int | None = None) -> None:
        """Take the ``reason`` as one line, and the line of the file if it is known."""
        shown = " ".join(str(reason).split())
        super().__init__(shown if len(shown) <= _REASON_MAX else f"{shown[:_REASON_MAX]} …")
        self.line = line


class Invalid(Refused):
    """The document is broken."""


def unexpected(error: Exception, *, line: int | None = None) -> Invalid:
    """Return the refusal of a document at which a reader failed in a way that none foresaw."""
    return Invalid(rulefile.unexpected(error), line=line)


class Unsupported(Refused):
    """It is valid Sigma, but Lavender cannot serve it."""

    kind: Kind = "unsupported"


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document that gives no rule, as people read it."""

    path: str
    line: int
    """Where the reason stands, as near as is known; from 1."""
    id: str = ""
    title: str = ""
    kind: Kind
    reason: str

    def __str__(self) -> str:
        name = f" {self.title!r}" if self.title else ""
        return f"{self.path}:{self.line}: {self.kind}:{name} {self.reason}"
