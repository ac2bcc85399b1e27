"""The rule book: the rules in force, read from the configuration folder and the built-in files.

Rules of the folder are files: ``*.toml`` in Lavender's own form, ``*.json`` compiled by
``python -m services.detection rules compile``, and, where a reader for them is given, Sigma's
``*.yml``. A rule with the id of a built-in one takes its place. What cannot be used is quarantined:
it is a row with its reason, and the others work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from actors import rule_folders
from actors.detection.builtin import builtin_rules
from actors.detection.conditions import RuleError
from actors.detection.events import LEVELS, Level
from actors.detection.quality import check_rule
from actors.detection.rulefile import SIZE_MAX_BYTES, RuleFileError, parse_rule, unexpected
from actors.detection.rules import AnyRule, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.tuning import Tuning, by_rule, is_tuning, parse_tuning, tuned

COMPILED_MAX_BYTES = 64 << 20
BUILT_IN = "built-in"


class RulesSettings(BaseModel):
    """``[rules]``: which rules are in force, beside the built-in ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    folder: Path = Field(
        strict=False,
        default=Path("rules"),
        description="Rule files, read again when they change; relative to lavender.toml's folder.",
    )
    disabled: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = Field(
        strict=False,
        default=(),
        max_length=10_000,
        description="Ids of rules that are not in force.",
    )
    min_level: Level = Field(
        default="informational", description="Rules below this level are not in force."
    )
    reload_secs: float = Field(
        default=5.0, ge=0.1, le=3600, description="How often to look for changed rule files."
    )


def folder_of(settings: RulesSettings, config: Path | None) -> Path | None:
    """The folder of the rule files, absolute; None without a configuration beside which it lies."""
    return None if config is None else config.absolute().parent / settings.folder


@dataclass(frozen=True, slots=True)
class Unusable:
    """A rule, or a file, that is not in force because something is wrong or missing."""

    file: str
    line: int
    reason: str
    id: str = ""
    title: str = ""
    unsupported: bool = False
    """Nothing is wrong with it: Lavender has no events for it."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Found:
    """What was read from files: rules, each with its file, and what cannot be used."""

    rules: Sequence[tuple[AnyRule, str]] = ()
    unusable: Sequence[Unusable] = ()
    tunings: Sequence[tuple[Tuning, str]] = ()


Reader: TypeAlias = Callable[[Sequence[Path]], Found]
"""Reads files of one form, all at once: rules may refer to each other."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ``rules list``."""

    id: str
    title: str
    source: str
    """``built-in``, ``lavender`` or ``sigma``."""
    status: Literal["active", "disabled", "unsupported"]
    reason: str
    file: str
    note: str = ""
    """What tunes it."""


@dataclass(frozen=True)
class RuleBook:
    """The rules in force, and what is to be said of the others."""

    rules: RuleSet
    rows: Sequence[Row]
    unusable: Sequence[Unusable] = field(default=())

    def digest(self) -> bytes:
        """What changes when the rules in force do."""
        active = (*self.rules.rules, *self.rules.sequences)
        return hashlib.sha256(msgspec.json.encode(active)).digest()


def read_toml(paths: Sequence[Path]) -> Found:
    """Read Lavender's own rule files, and files of tuning."""
    rules, unusable, tunings = [], [], []
    for path in paths:
        try:
            raw = rule_folders.read_file(path, SIZE_MAX_BYTES)
            if is_tuning(raw):
                tunings.append((parse_tuning(raw, path=str(path)), str(path)))
            else:
                rules.append((parse_rule(raw, path=str(path)), str(path)))
        except RuleFileError as error:
            unusable.append(Unusable(str(path), error.line, error.reason))
    return Found(rules, unusable, tunings)


_decode_compiled = msgspec.json.Decoder(list[AnyRule]).decode


def read_compiled(paths: Sequence[Path]) -> Found:
    """Read files of compiled rules."""
    rules: list[tuple[AnyRule, str]] = []
    unusable = []
    for path in paths:
        try:
            raw = rule_folders.read_file(path, COMPILED_MAX_BYTES)
            rules += [(rule, str(path)) for rule in _decode_compiled(raw)]
        except RuleFileError as error:
            unusable.append(Unusable(str(path), error.line, error.reason))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            unusable.append(Unusable(str(path), 0, f"not compiled rules: {error}"))
        except Exception as error:  # noqa: BLE001 - whatever a file holds is that file's problem
            unusable.append(Unusable(str(path), 0, unexpected(error)))
    return Found(rules, unusable)


READERS: Mapping[str, Reader] = {".toml": read_toml, ".json": read_compiled}
"""What every program can read."""


def read_files(paths: Sequence[Path], readers: Mapping[str, Reader]) -> Found:
    """Read files, each by the reader of its form."""
    rules: list[tuple[AnyRule, str]] = []
    unusable: list[Unusable] = []
    tunings: list[tuple[Tuning, str]] = []
    for suffix, read in readers.items():
        mine = [path for path in paths if path.suffix == suffix]
        if mine:
            found = read(mine)
            rules += found.rules
            unusable += found.unusable
            tunings += found.tunings
    return Found(rules, unusable, tunings)


def read_folder(folder: Path | None, readers: Mapping[str, Reader]) -> Found:
    """Read the rule files of a folder, if it is there.

    Raises:
        RuleFileError: the folder cannot be used at all.
    """
    if not rule_folders.is_there(folder):
        return Found()
    return read_files(rule_folders.find_files([folder], readers), readers)


def assemble(
    found: Found,
    settings: RulesSettings,
    filters: FilterSettings,
    *,
    today: str,
    built_in: bool = True,
) -> RuleBook:
    """Put what was read and the built-in rules together; refuse what cannot be used.

    Args:
        found: what was read.
        settings: which rules are in force.
        filters: the lists they name.
        today: the date as text, to leave out exclusions that have expired.
        built_in: with the built-in rules.
    """
    own, unusable = _distinct(found)
    good: list[tuple[AnyRule, str]] = []
    for rule, file in sorted(own, key=lambda each: each[0].id):
        if why := _why_unusable(rule, filters):
            unusable.append(Unusable(file, 0, why, rule.id, rule.title))
        else:
            good.append((rule, file))
    replaced = {rule.id for rule, _ in good}
    shipped = [(rule, BUILT_IN) for rule in builtin_rules() if rule.id not in replaced]
    rows: list[Row] = []
    active: list[AnyRule] = []
    labels: set[str] = set()
    tunings = by_rule(each for each, _ in found.tunings)
    for rule, file in (*(shipped if built_in else ()), *good):
        mine = tunings.get(rule.id, ())
        current = without_expired(tuned(rule, mine), today)
        if mine and (why := _why_unusable(current, filters)):
            names = ", ".join(each.name for each in mine)
            why = f"is not tuned by {names}: {why}"
            unusable.append(Unusable(file, 0, why, rule.id, rule.title))
            current = without_expired(rule, today)
        reason = _why_disabled(current, settings)
        if not reason:
            active.append(_told_apart(current, labels))
        source = BUILT_IN if file == BUILT_IN else rule.source
        status: Literal["active", "disabled"] = "disabled" if reason else "active"
        note = f"tuned by {', '.join(each.name for each in mine)}" if mine else ""
        rows.append(Row(rule.id, rule.title or rule.label, source, status, reason, file, note))
    rows += [
        Row(each.id, each.title, _source(each.file), "unsupported", each.reason, each.file)
        for each in unusable
    ]
    rows += _without_rules(found.tunings, {row.id for row in rows})
    return RuleBook(RuleSet(filters, active), rows, unusable)


def _why_unusable(rule: AnyRule, filters: FilterSettings) -> str:
    """Why a rule cannot be in force; empty if it can."""
    try:
        check_rule(rule, filters)
        msgspec.json.encode(rule)
    except RuleError as error:
        return str(error).removeprefix(f"{rule.id}: ")
    except Exception as error:  # noqa: BLE001 - whatever a file holds is that file's problem
        return unexpected(error)
    return ""


def _without_rules(tunings: Iterable[tuple[Tuning, str]], known: Iterable[str]) -> list[Row]:
    """What tunes rules that are not here; on an agent, perhaps the workers have them."""
    there = set(known)
    return [
        Row(rule, f"tuning {each.name}", "lavender", "disabled", "there is no such rule", file)
        for each, file in tunings
        for rule in each.tunes
        if rule not in there
    ]


def _distinct(found: Found) -> tuple[list[tuple[AnyRule, str]], list[Unusable]]:
    """Each id once: the first of a rule that was written, before what was compiled from it."""
    kept: dict[str, tuple[AnyRule, str]] = {}
    unusable = list(found.unusable)
    for rule, file in sorted(found.rules, key=lambda each: _is_compiled(each[1])):
        first = kept.setdefault(rule.id, (rule, file))
        if first[0] is not rule and _is_compiled(file) == _is_compiled(first[1]):
            why = f"the id {rule.id} is used by {first[1]} already"
            unusable.append(Unusable(file, 0, why, rule.id, rule.title))
    return list(kept.values()), unusable


def without_expired(rule: AnyRule, today: str) -> AnyRule:
    """Return a rule without the exclusions whose last day is over."""
    current = tuple(each for each in rule.exclusions if not each.expires or each.expires >= today)
    if len(current) == len(rule.exclusions):
        return rule
    return msgspec.structs.replace(rule, exclusions=current)


def _told_apart(rule: AnyRule, labels: set[str]) -> AnyRule:
    """The rule, with its id in its label if another has that label: alert ids are made of it."""
    if rule.label in labels:
        rule = msgspec.structs.replace(rule, label=f"{rule.label} ({rule.id})")
    labels.add(rule.label)
    return rule


def _why_disabled(rule: AnyRule, settings: RulesSettings) -> str:
    if rule.status == "disabled":
        return "its file says so"
    if rule.id in settings.disabled:
        return "[rules] disabled"
    if isinstance(rule, Rule) and rule.silent:
        return ""
    if LEVELS.index(rule.level) < LEVELS.index(settings.min_level):
        return f"its level {rule.level} is below [rules] min_level"
    return ""


def _is_compiled(file: str) -> bool:
    return file.endswith(".json")


def _source(file: str) -> str:
    return "sigma" if file.endswith((".yml", ".yaml")) else "lavender"
