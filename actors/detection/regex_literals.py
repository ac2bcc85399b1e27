"""Literals that every match of a regular expression contains, for a search before the expression.

Only what is plain is understood, https://github.com/google/re2/wiki/Syntax: of the rest nothing is
said. An expression that cannot do without its text costs no more than a literal then.
"""

from __future__ import annotations

import re

from actors.detection.text import fold

_TOKEN = re.compile(
    r"""
    (?P<choice> \( (?:\?:)? [\w/"'\ ,:=-]+ (?:\|[\w/"'\ ,:=-]+)* \) )
  | (?P<set> \[ [\w/"'\ ,:=]+ \] )
  | \\ (?P<escaped> [^\w] )
  | (?P<other> \\[sSdDwWbBAznrtfv] | \[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\] | [.^$] )
  | (?P<open> \( (?:\?:)? (?!\?) )
  | (?P<close> \) )
  | (?P<bar> \| )
  | (?P<plain> [^\\\[\](){}|?*+.^$] )
    """,
    re.VERBOSE | re.DOTALL,
)
_TIMES = re.compile(r"(?:[?*+]|\{\d+(?:,\d*)?\})\??")
_NEVER = re.compile(r"[?*]|\{0*[,}]")
_MAX_ALTERNATIVES = 16
_NOTHING = ("",)


def regex_literals(pattern: str) -> tuple[str, ...]:
    """Return folded literals of which one is in every folded text the pattern is found in.

    Args:
        pattern: as RE2 takes it.

    Returns:
        At most 16, the longest that the pattern offers; none if nothing is known.
    """
    if not pattern.isascii():
        return ()
    runs: list[tuple[str, ...]] = [_NOTHING]
    depth = at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None or (token["bar"] and not depth):
            return ()
        times = _TIMES.match(pattern, token.end())
        at = times.end() if times else token.end()
        depth += bool(token["open"]) - bool(token["close"])
        texts = () if depth or (times and _NEVER.match(times[0])) else _texts(token)
        longer = tuple(before + text for before in runs[-1] for text in texts)
        if len(longer) > _MAX_ALTERNATIVES:
            runs.append(texts)
        elif longer:
            runs[-1] = longer
        if times or not longer:  # what comes next need not follow at once
            runs.append(_NOTHING)
    best = max(runs, key=lambda run: (min(map(len, run)), -len(run)))
    return () if best == _NOTHING else best


def _texts(token: re.Match[str]) -> tuple[str, ...]:
    """What a token stands for, or nothing if that is not one of a few texts."""
    if token["choice"]:
        texts = token["choice"][1:-1].removeprefix("?:").split("|")
    elif token["set"]:
        texts = [*token["set"][1:-1]]
    else:
        texts = [*(token["escaped"] or token["plain"] or "")]
    found = {fold(text) for text in texts}
    return tuple(sorted(found)) if len(found) <= _MAX_ALTERNATIVES else ()
