"""Text that a watched process wrote: made fit for people to read, and for comparing."""

from __future__ import annotations

import hashlib
import json

_DIGEST_BYTES = 16
KEPT_MAX = 256
"""Characters of a text that is remembered as it is, if they are ASCII."""
_KEPT_MAX_WIDE = 96
"""The same for other text, of which a character may take four bytes."""
_ENDS, _ENDS_WIDE = 100, 29
"""Characters of a longer text that are remembered of its beginning, and of its end."""


def digest(text: str) -> bytes:
    """Return 16 bytes that stand for ``text`` where only equality matters; always the same ones."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def memory_bytes(text: str) -> int:
    """Return at most how many bytes the characters of ``text`` take."""
    return len(text) if text.isascii() else 4 * len(text)


def is_short(text: str) -> bool:
    """Whether ``text`` may be remembered as it is: attackers choose how long their paths are."""
    return len(text) <= (KEPT_MAX if text.isascii() else _KEPT_MAX_WIDE)


def shortened(text: str) -> str:
    """Return ``text``, or where it is long its ends, and between them what tells it from others."""
    if is_short(text):
        return text
    ends = _ENDS if text.isascii() else _ENDS_WIDE
    return f"{text[:ends]}...{digest(text).hex()}...{text[-ends:]}"


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


def printable_lines(text: str) -> str:
    """Return what a program prints, lines or JSON, with every character that could deceive escaped.

    Line feeds and tabs stay. The escapes are JSON's, so JSON stays what it was.
    """
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else json.dumps(char)[1:-1] for char in text
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
