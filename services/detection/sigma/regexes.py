"""Regular expressions of rules: RE2's, so that none can stall a worker.

What RE2 leaves out on purpose (it cannot be done in linear time) is valid in other engines and so
unsupported; anything else that it rejects is broken.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, cast

import re2
from sigma.policy import SigmaPolicy
from sigma.policy.regex_engine import RegexEngine, RegexPattern

from services.detection.sigma.refusals import Invalid, Refused, Unsupported

LENGTH_MAX = 8192
MEMORY_MAX = 1 << 20
"""Of a compiled expression, by RE2's count; what is larger takes long to compile."""
_TRIVIAL = re.compile(r"(?:\(\?[ims]+\))?(?:\^?(?:\.\*|\(\.\*\))\$?|\^|\$)?")

_LACKING = {
    "(?=": "look-ahead (?=", "(?!": "look-ahead (?!",
    "(?<=": "look-behind (?<=", "(?<!": "look-behind (?<!", "(?<": "look-behind",
    "(?>": "an atomic group (?>", "(?(": "a condition (?(", "(?P=": "a back-reference (?P=",
    "(?P": "a back-reference (?P=", "(?P>": "recursion (?P>", "(?|": "a branch reset (?|",
    "(?#": "a comment (?#", "(?R": "recursion (?R", "(?x": "the flag x", "(?a": "the flag a",
    "(?L": "the flag L", "(?u": "the flag u", "(?&": "recursion (?&",
}  # fmt: skip
_ESCAPES = {
    **{f"\\{digit}": f"a back-reference \\{digit}" for digit in range(1, 10)},
    **{f"\\{letter}": f"\\{letter}" for letter in "ZGhHRKuXNc"},
    "\\k": "a back-reference \\k",
    "\\g": "a back-reference \\g",
}


def expression(pattern: str, flags: str = "", *, start: bool = False, end: bool = False) -> str:
    """Return the RE2 expression of a pattern with its flags (``i``, ``m``, ``s``), checked.

    ``start`` and ``end`` tie it to the beginning and the end of the text.

    Raises:
        Unsupported: RE2 lacks something that it uses.
        Invalid: It is broken.
    """
    if start or end:
        before, after = r"\A" if start else "", r"\z" if end else ""
        pattern = f"{before}(?:{pattern}){after}"
    whole = f"(?{''.join(sorted(flags))}){pattern}" if flags else pattern
    compiled(whole)
    return whole


def matches_everything(whole: str) -> bool:
    """Whether it is one of the ways to write *anything at all*."""
    return _TRIVIAL.fullmatch(whole) is not None


def quoted(text: str) -> str:
    """Return the expression of just this text."""
    return str(re2.escape(text))


def from_glob(glob: str) -> str:
    """Return the expression of a glob: ``*``, ``?``, and a backslash to take the next as it is."""
    out: list[str] = []
    taken = iter(glob)
    for each in taken:
        if each == "\\":
            out.append(quoted(next(taken, each)))
        else:
            out.append({"*": ".*", "?": "."}.get(each) or quoted(each))
    return "".join(out)


@lru_cache(maxsize=2048)
def compiled(pattern: str) -> Any:
    """Return RE2's form of a pattern.

    Raises:
        Unsupported: RE2 lacks something that it uses.
        Invalid: It is broken.
    """
    if len(pattern) > LENGTH_MAX:
        raise Invalid(f"a regular expression of more than {LENGTH_MAX} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY_MAX
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        said = error.args[0] if error.args else error
        raise _refused(
            pattern, said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        ) from None


def _refused(pattern: str, said: str) -> Refused:
    what, _, at = said.partition(": ")
    if what.startswith("pattern too large"):
        return Unsupported(f"regular expression {_shown(pattern)}: too large for RE2")
    lacking: str | None = None
    if what == "invalid perl operator":
        lacking = _LACKING.get(at)
    elif what == "invalid escape sequence":
        lacking = _ESCAPES.get(at)
    elif what == "invalid repetition size":
        lacking = f"a repetition of more than 1000, {at}"
    elif what == "bad repetition operator" and re.fullmatch(r"[*+?]\+", at):
        lacking = f"the possessive {at}"
    if lacking is not None:
        return Unsupported(f"regular expression {_shown(pattern)}: RE2 does not have {lacking}")
    return Invalid(f"regular expression {_shown(pattern)}: {said}")


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else f"{pattern[:80]}…")


class _Never(Exception):  # noqa: N818 - the type that pySigma asks for; never raised
    pass


class _Engine(RegexEngine):
    """pySigma's checks of regular expressions, done by `compiled`."""

    def compile(self, pattern: str, flags: int = 0) -> RegexPattern:  # noqa: ARG002 - flags are ours
        return cast("RegexPattern", compiled(pattern))

    @property
    def error(self) -> type[Exception]:
        return _Never


POLICY = SigmaPolicy(regex_engine=_Engine())
"""What pySigma may do while it parses: no other regular expressions, no templates, no files."""
