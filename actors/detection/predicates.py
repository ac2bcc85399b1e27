"""Predicates: one test compiled into a function of a value.

Nothing here can take longer than linear time in the text: regular expressions are RE2's.
"""

from __future__ import annotations

import ipaddress
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

from actors.detection.addresses import plain
from actors.detection.conditions import Op, RuleError, Test, Value
from actors.detection.regex_literals import regex_literals
from actors.detection.text import fold

Predicate: TypeAlias = Callable[[Any], bool]

_ORDER: dict[Op, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_REGEX_BYTES_MAX = 8192
_REGEX_STATES_MAX = 5000
"""RE2 may take as many steps for each character: with 178,000 it took seconds for one command."""
_MAPPED_BITS = 96
_ADDRESS_MAX = 64
_REGEX_MEMORY_BYTES = 8 << 20


def text_predicate(test: Test) -> Predicate:
    """Return the predicate on one text; given folded where `takes_folded` says so.

    Raises:
        RuleError: The operation or a value does not suit a text.
    """
    match test.op:
        case "re" | "glob":
            return _regex(test)
        case "cidr":
            return _cidr(test)
        case "equals" | "contains" | "startswith" | "endswith":
            return _plain(test.op, _texts(test))
        case "lt" | "lte" | "gt" | "gte":
            compare = number_predicate(test)
            return lambda text: text.isdecimal() and len(text) < 20 and compare(int(text))
    raise RuleError(f"{test.field}: {test.op!r} does not suit a text")


def takes_folded(test: Test) -> bool:
    """Whether the predicate on a text is to be given it folded, as `text.fold` does it."""
    return not test.cased and test.op != "re"  # RE2 has a way of its own to disregard case


def number_predicate(test: Test) -> Predicate:
    """Return the predicate on a number.

    Raises:
        RuleError: The operation or a value does not suit a number.
    """
    wanted = [_number(test, value) for value in test.values]
    if test.op == "equals":
        return _among(frozenset(wanted))
    compare = _ORDER.get(test.op)
    if compare is None:
        raise RuleError(f"{test.field}: {test.op!r} does not suit a number")
    return lambda number: any(compare(number, each) for each in wanted)


def flag_predicate(test: Test) -> Predicate:
    """Return the predicate on a truth value.

    Raises:
        RuleError: It is not compared with true or false.
    """
    if test.op != "equals" or not all(isinstance(value, bool) for value in test.values):
        raise RuleError(f"{test.field}: is true or false, and nothing else")
    wanted = frozenset(test.values)
    return lambda flag: flag in wanted


def words_predicate(test: Test) -> Predicate:
    """Return the predicate on several texts, any of which may fit."""
    holds = text_predicate(test)
    if not takes_folded(test):
        return lambda words: any(map(holds, words))
    return lambda words: any(holds(fold(word)) for word in words)


def literals(test: Test) -> tuple[str, ...]:
    """Return folded pieces of which one is in every text the test holds for; maybe none."""
    if test.op in {"equals", "contains", "startswith", "endswith"}:
        return tuple(fold(str(value)) for value in test.values)
    if test.op == "glob":
        return tuple(fold(max(_pieces(str(value)), key=len)) for value in test.values)
    if test.op == "re":
        found = [regex_literals(str(value)) for value in test.values]
        return tuple(chain.from_iterable(found)) if all(found) else ()
    return ()


def _texts(test: Test) -> list[str]:
    return [str(value) if test.cased else fold(str(value)) for value in test.values]


def _plain(op: Op, wanted: Sequence[str]) -> Predicate:
    if op == "equals":
        return _among(frozenset(wanted))
    if op == "startswith":
        begin = tuple(wanted)
        return lambda text: text.startswith(begin)
    if op == "endswith":
        end = tuple(wanted)
        return lambda text: text.endswith(end)
    if len(wanted) == 1:
        only = wanted[0]
        return lambda text: only in text
    return lambda text: any(each in text for each in wanted)


def _among(wanted: frozenset[Any]) -> Predicate:
    if len(wanted) == 1:
        (only,) = wanted
        return lambda value: value == only
    return lambda value: value in wanted


def _number(test: Test, value: Value) -> int:
    try:
        if not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise RuleError(f"{test.field}: is a number, and {value!r} is none")


def _regex(test: Test) -> Predicate:
    if test.op == "glob":
        patterns = [f"(?s)\\A(?:{_glob(text)})\\z" for text in _texts(test)]
    else:
        patterns = [str(value) for value in test.values]
    return _any_of(patterns)


def _any_of(patterns: Sequence[str]) -> Predicate:
    """Whether one of the patterns is found in a text.

    As one set where that is small: it takes half the time of a search, for it need not say where.
    A set is matched by an automaton within its memory or not at all, hence the bound.
    """
    import re2  # noqa: PLC0415 - only where a rule needs it

    compiled = [_compile(pattern) for pattern in patterns]
    if sum(each.programsize for each in compiled) <= _REGEX_STATES_MAX:
        together = re2.Set.SearchSet(_options())
        for pattern in patterns:
            together.Add(pattern)
        together.Compile()
        match = together.Match
        return lambda text: bool(match(text))
    searches = [each.search for each in compiled]
    return lambda text: any(search(text) is not None for search in searches)


def _options() -> Any:
    import re2  # noqa: PLC0415 - only where a rule needs it

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _REGEX_MEMORY_BYTES
    return options


def _glob(glob: str) -> str:
    import re2  # noqa: PLC0415 - only where a rule needs it

    shown = {"*": ".*", "?": "."}
    return "".join(
        shown[char] if wild else str(re2.escape(char)) for char, wild in _characters(glob)
    )


def _characters(glob: str) -> list[tuple[str, bool]]:
    """Each character, and whether it is a wildcard; a backslash takes the next as it stands."""
    found: list[tuple[str, bool]] = []
    escaped = False
    for char in glob:
        if escaped or char != "\\":
            found.append((char, char in "*?" and not escaped))
            escaped = False
        else:
            escaped = True
    return found + [("\\", False)] * escaped


def _pieces(glob: str) -> list[str]:
    """The literal texts between wildcards."""
    pieces = [""]
    for char, wild in _characters(glob):
        if wild:
            pieces.append("")
        else:
            pieces[-1] += char
    return pieces


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> Any:
    import re2  # noqa: PLC0415 - only where a rule needs it

    if len(pattern.encode()) > _REGEX_BYTES_MAX:
        raise RuleError(f"a regular expression is longer than {_REGEX_BYTES_MAX} bytes")
    try:
        compiled = re2.compile(pattern, _options())
    except re2.error as error:
        why = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise RuleError(f"regular expression {pattern!r}: {why}") from error
    if compiled.programsize > _REGEX_STATES_MAX:
        raise RuleError(f"regular expression {pattern!r}: its repetitions make it too large")
    return compiled


def _cidr(test: Test) -> Predicate:
    try:
        networks = [_network(str(value)) for value in test.values]
    except ValueError as error:
        raise RuleError(f"{test.field}: {error}") from error

    def holds(text: str) -> bool:
        # What is longer is no address, and must not fill the cache.
        address = _address(text) if len(text) <= _ADDRESS_MAX else None
        return address is not None and any(address in network for network in networks)

    return holds


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The network; that of IPv4, where it is one in the form of IPv6."""
    found = ipaddress.ip_network(text, strict=False)
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    if mapped is None or found.prefixlen < _MAPPED_BITS:
        return found
    return ipaddress.IPv4Network((mapped, found.prefixlen - _MAPPED_BITS))


@lru_cache(maxsize=4096)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(plain(text))
    except ValueError:
        return None
