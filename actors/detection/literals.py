"""Literal search: which of many literals are in a text, in one pass over it.

With pyahocorasick where it is installed; without, one search per literal: slower, the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

try:
    import ahocorasick
except ImportError:  # the agent does without
    ahocorasick = None


class Literals:
    """Maps literals to those who wait for them: one bit each, for a set of them is a number then.

    Args:
        waiting: the literals, folded, each with the numbers of its bits.
        plain: search one by one even where pyahocorasick is installed.
    """

    def __init__(self, waiting: Mapping[str, Iterable[int]], *, plain: bool = False) -> None:
        self._pairs = tuple(
            (literal, sum(1 << number for number in set(numbers)))
            for literal, numbers in waiting.items()
        )
        self._automaton: Any = None
        if self._pairs and ahocorasick is not None and not plain:
            self._automaton = ahocorasick.Automaton()
            for literal, bits in self._pairs:
                self._automaton.add_word(literal, bits)
            self._automaton.make_automaton()

    def __len__(self) -> int:
        return len(self._pairs)

    def find(self, text: str) -> int:
        """Return the bits of all literals that are in a text, which must be folded."""
        found = 0
        if self._automaton is not None:
            for _, bits in self._automaton.iter(text):
                found |= bits
        else:
            for literal, bits in self._pairs:
                if literal in text:
                    found |= bits
        return found
