"""Tuning: exclusions and a status for rules that somebody else wrote and keeps up to date.

A file of tuning names rules by id. Those in ``builtin_tuning/`` are shipped, because the rules they
are about are not; ``docs/rules-exclusions.md`` says what each is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Annotated

import msgspec
from msgspec import Meta

from actors.detection.rulefile import ExclusionTable, Strict, exclusion_of, parse_toml
from actors.detection.rules import AnyRule, Exclusion, Id, Status

SHIPPED = ("package-installation", "reading-is-no-change", "user-creation")
_FOLDER = resources.files("actors.detection") / "builtin_tuning"
# Read now: an agent that has dropped root may not be able to.
_SHIPPED_TEXTS = {name: (_FOLDER / f"{name}.toml").read_bytes() for name in SHIPPED}
_IS_TUNING = re.compile(rb"^[ \t]*tunes[ \t]*=", re.MULTILINE)


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """What is changed about rules of others."""

    name: str
    """Its file's, for people."""
    tunes: tuple[Id, ...]
    status: Status | None = None
    """None leaves the rule's own."""
    shipped: bool = True
    """False: the exclusions that Lavender ships for these rules do not hold."""
    exclusions: tuple[Exclusion, ...] = ()


class _File(Strict, kw_only=True):
    tunes: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=200)]
    status: Status | None = None
    shipped: bool = True
    exclusions: Annotated[tuple[ExclusionTable, ...], Meta(max_length=200)] = ()


def is_tuning(raw: bytes) -> bool:
    """Whether the content of a file is tuning, and no rule."""
    return _IS_TUNING.search(raw) is not None


def parse_tuning(raw: bytes, *, path: str) -> Tuning:
    """Make tuning of the content of a file.

    Raises:
        RuleFileError: It cannot be used.
    """
    name = path.rpartition("/")[2].removesuffix(".toml")

    def make(file: _File) -> Tuning:
        return Tuning(
            name=name,
            tunes=file.tunes,
            status=file.status,
            shipped=file.shipped,
            exclusions=tuple(exclusion_of(each) for each in file.exclusions),
        )

    return parse_toml(raw, _File, make, path=path)


@cache
def shipped_tunings() -> tuple[Tuning, ...]:
    """Return what is shipped."""
    return tuple(parse_tuning(raw, path=f"{name}.toml") for name, raw in _SHIPPED_TEXTS.items())


def by_rule(own: Iterable[Tuning]) -> Mapping[str, Sequence[Tuning]]:
    """Return the tunings of each rule, shipped ones first, unless they are not to hold."""
    mine = list(own)
    declined = {rule for each in mine if not each.shipped for rule in each.tunes}
    found: dict[str, list[Tuning]] = {}
    for each in shipped_tunings():
        for rule in each.tunes:
            if rule not in declined:
                found.setdefault(rule, []).append(each)
    for each in mine:
        for rule in each.tunes:
            found.setdefault(rule, []).append(each)
    return found


def tuned(rule: AnyRule, tunings: Sequence[Tuning]) -> AnyRule:
    """Return a rule with what these change about it; the last status counts."""
    status: Status = rule.status
    exclusions = list(rule.exclusions)
    for each in tunings:
        status = each.status or status
        # Compiled rules bring what was shipped when they were compiled.
        exclusions += [new for new in each.exclusions if new not in exclusions]
    if status == rule.status and len(exclusions) == len(rule.exclusions):
        return rule
    return msgspec.structs.replace(rule, status=status, exclusions=tuple(exclusions))
