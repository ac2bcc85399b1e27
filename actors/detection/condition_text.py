"""The condition language of rule files: ``shell and not (expected or 1 of launcher*)``.

Names are those of the rule's selections; ``and``, ``or``, ``not``, parentheses, ``1 of x*``,
``any of x*``, ``all of x*`` and ``them`` for every selection. ``not`` binds tightest, then ``and``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from actors.detection.conditions import Condition, Not, RuleError, all_of, any_of, tests_of

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z0-9_*-]+)|(?P<sign>[()]))")
_TOKENS_MAX = 1000
_DEPTH_MAX = 32
_TESTS_MAX = 20_000
"""Tests in a condition; ``all of them`` a hundred times is many."""
_WORDS = ("and", "or", "not", "of", "them")


def parse_condition(text: str, selections: Mapping[str, Condition]) -> Condition:
    """Return the condition that a text makes of selections.

    Raises:
        RuleError: It cannot be read, names a selection that is not there, or leaves one out.
    """
    reader = _Reader(_tokens(text), selections)
    condition = reader.either(0)
    if reader.left:
        raise RuleError(f"condition: {reader.left[0]!r} is not expected here")
    unused = sorted(set(selections) - reader.used)
    if unused:
        raise RuleError(f"condition: does not use the selection {unused[0]!r}")
    return condition


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(found) == _TOKENS_MAX:
            raise RuleError(f"condition: cannot be read at {text[position : position + 20]!r}")
        found.append(match["word"] or match["sign"])
        position = match.end()
    return found


class _Reader:
    """Reads a list of tokens from the left."""

    def __init__(self, tokens: list[str], selections: Mapping[str, Condition]) -> None:
        self.left = tokens
        self.used: set[str] = set()
        self._selections = selections
        self._sizes = {name: len(tests_of(each)) for name, each in selections.items()}
        self._size = 0

    def either(self, depth: int) -> Condition:
        found = [self._every(depth)]
        while self._take("or"):
            found.append(self._every(depth))
        return any_of(found)

    def _every(self, depth: int) -> Condition:
        found = [self._one(depth)]
        while self._take("and"):
            found.append(self._one(depth))
        return all_of(found)

    def _one(self, depth: int) -> Condition:
        if depth > _DEPTH_MAX:
            raise RuleError(f"condition: nested more than {_DEPTH_MAX} deep")
        if self._take("not"):
            return Not(self._one(depth + 1))
        if self._take("("):
            inner = self.either(depth + 1)
            if not self._take(")"):
                raise RuleError("condition: a parenthesis is not closed")
            return inner
        name = self._next()
        if self.left and self.left[0] == "of":
            self._take("of")
            return self._some(name, self._next())
        if name not in self._selections or name in _WORDS:
            raise RuleError(f"condition: there is no selection {name!r}")
        return self._selection(name)

    def _some(self, quantity: str, pattern: str) -> Condition:
        pattern = "*" if pattern == "them" else pattern
        names = [name for name in self._selections if fnmatchcase(name, pattern)]
        if not names:
            raise RuleError(f"condition: no selection is called {pattern!r}")
        found = [self._selection(name) for name in names]
        if quantity in {"1", "any"}:
            return any_of(found)
        if quantity == "all":
            return all_of(found)
        raise RuleError(f"condition: {quantity!r} of: write 1, any or all")

    def _selection(self, name: str) -> Condition:
        self.used.add(name)
        self._size += self._sizes[name]
        if self._size > _TESTS_MAX:
            raise RuleError(f"condition: has more than {_TESTS_MAX} tests")
        return self._selections[name]

    def _take(self, token: str) -> bool:
        if self.left and self.left[0] == token:
            del self.left[0]
            return True
        return False

    def _next(self) -> str:
        if not self.left:
            raise RuleError("condition: ends where a name is expected")
        return self.left.pop(0)
