"""Command lines that hide what they do: T1027.

Looks for the same few words as the first Lavender. It does not undo quoting, variables or
encodings; it is one sign among others.
"""

from __future__ import annotations

import re

from actors.detection.programs import Program

_MAX_CHARS = 8192
_SEPARATOR = "\0"
"""Stands between arguments: no argument can contain it, so no word spans two by accident."""

_PLAIN = ("base64", "$(curl", "$(wget", "/dev/tcp", "exec(")
_PLAIN_ANY_CASE = ("frombase64string",)

# Flags that may stand before the one that takes code, per interpreter; those that take a value of
# their own are left out, because what follows them is the value.
_INLINE = {
    "python": r"-[bBdEhiIOPqRsStuvVx]*c",
    "perl": r"-[acflnpsStTuUvwWX0-9]*[eE]",
    "ruby": r"-[acdlnpsSvwW0-9]*e",
}
_INLINE_ARGUMENT = {family: re.compile(flags) for family, flags in _INLINE.items()}
_VALUE_FOLLOWS = {"python": ("-W", "-X"), "perl": ("-I",), "ruby": ("-I", "-r")}
_MAX_FLAGS = 16

_HINTS = ("|", "eval", *_INLINE)
_WORDS = re.compile(
    r"(?P<pipe>\|\s*(?:/[\w./-]*/)?(?:ba)?sh(?![\w./-]))"
    r"|(?P<eval>\beval\b(?!\s+'[^']*'))"
    r"|(?P<inline>"
    + "|".join(rf"\b{family}[\d.]*[\s\0]+{flags}" for family, flags in _INLINE.items())
    + r")"
)
"""Eval of text in single quotes hides nothing: every autoconf ``configure`` does it with ``-c``.

Linear: a match starts at a ``|`` or a whole word, and no two repeats can share characters."""


def find_obfuscation(
    program: Program, argv: tuple[str, ...], *, inline_code: bool = True
) -> str | None:
    """Return the first sign of obfuscation in a command line, as people should read it.

    Args:
        program: The interpreter that runs.
        argv: Its arguments, itself first.
        inline_code: Whether code given on the command line (``-c``, ``-e``) is such a sign.
    """
    text = _SEPARATOR.join(argv[1:])[:_MAX_CHARS]
    for word in _PLAIN:
        if word in text:
            return word
    lowered = text.lower()
    for word in _PLAIN_ANY_CASE:
        if word in lowered:
            return word
    if inline_code and runs_inline_code(program, argv):
        return "code on the command line"
    if not any(hint in text for hint in _HINTS):
        return None
    for match in _WORDS.finditer(text):
        if inline_code or match.lastgroup != "inline":
            return match[0].replace(_SEPARATOR, " ")
    return None


def runs_inline_code(program: Program, argv: tuple[str, ...]) -> bool:
    """Whether this is ``python -c``, ``perl -e`` or ``ruby -e``, also in a cluster (``-Ic``)."""
    family = _family(program)
    if family is None:
        return False
    flag = _INLINE_ARGUMENT[family]
    value_follows = _VALUE_FOLLOWS[family]
    arguments = iter(argv[1 : 1 + _MAX_FLAGS])
    for argument in arguments:
        if not argument.startswith("-"):
            return False
        if flag.match(argument):
            return True
        if argument in value_follows:
            next(arguments, None)
    return False


def _family(program: Program) -> str | None:
    for name in program.names:
        for family in _INLINE:
            if name.startswith(family):
                return family
    return None
