"""Text that a watched process wrote: made fit for people to read, and for comparing."""

from __future__ import annotations


def fold(text: str) -> str:
    """Return ``text`` as it is compared without regard to case.

    Character by character, so that a part of a text folded is a part of the folded text: what
    `str.lower` does to a sigma depends on where in a word it stands.
    """
    lowered = text.lower()
    return lowered if lowered.isascii() else lowered.replace("\u03c2", "\u03c3")


def printable(text: str, *, limit: int = 512) -> str:
    """Return ``text`` with every character that could deceive escaped, at most ``limit`` long.

    That is every character that Unicode does not call printable: control characters, line and
    paragraph separators, and the format characters that reverse or hide what follows them.
    """
    if len(text) <= limit and text.isprintable():
        return text
    escaped = "".join(char if char.isprintable() else _escape(char) for char in text[: limit + 1])
    return escaped if len(escaped) <= limit else f"{escaped[: limit - 1]}…"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
