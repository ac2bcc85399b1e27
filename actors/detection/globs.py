"""Globs with ``*`` and ``?`` only, compiled so that no text can make them slow.

``[`` is an ordinary character: it is the name of a program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def is_glob(text: str) -> bool:
    """Whether ``text`` has a wildcard."""
    return "*" in text or "?" in text


def compile_globs(globs: Iterable[str], *, cross_slash: bool) -> re.Pattern[str] | None:
    """Compile one pattern that a text must match as a whole, or None when there are no globs.

    ``*`` and ``?`` match a slash only with ``cross_slash``.
    """
    patterns = [_translate(glob, cross_slash=cross_slash) for glob in globs]
    if not patterns:
        return None
    return re.compile(rf"(?s:{'|'.join(patterns)})\Z")


def _translate(glob: str, *, cross_slash: bool) -> str:
    """Write one glob as a regular expression, without backtracking between its stars.

    The piece after each star but the last is taken at its first occurrence and never given back
    (an atomic group): an earlier occurrence leaves more room for the rest, so nothing is missed.
    """
    one = "." if cross_slash else "[^/]"
    head, *pieces = (
        "".join(one if char == "?" else re.escape(char) for char in piece)
        for piece in re.sub(r"\*+", "*", glob).split("*")
    )
    if not pieces:
        return head
    *middle, tail = pieces
    return head + "".join(f"(?>{one}*?{piece})" for piece in middle) + f"{one}*{tail}"
