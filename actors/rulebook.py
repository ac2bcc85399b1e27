"""The rule book: the rules in force, read from the configuration folder and the built-in files.

Rules of the folder are files: ``*.toml`` in Lavender's own form, ``*.json`` compiled by
``python -m services.detection rules compile``, and, where a reader for them is given, Sigma's
``*.yml``. A rule with the id of a built-in one takes its place. What cannot be used is quarantined:
it is a row with its reason, and the others work.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeGuard

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from actors.detection.builtin import builtin_rules
from actors.detection.conditions import RuleError
from actors.detection.events import LEVELS, Level
from actors.detection.quality import check_rule
from actors.detection.rulefile import SIZE_MAX_BYTES, RuleFileError, parse_rule
from actors.detection.rules import AnyRule, Rule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.tuning import Tuning, by_rule, is_tuning, parse_tuning, tuned

FILES_MAX = 10_000
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
            raw = _read(path, SIZE_MAX_BYTES)
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
            raw = _read(path, COMPILED_MAX_BYTES)
            rules += [(rule, str(path)) for rule in _decode_compiled(raw)]
        except RuleFileError as error:
            unusable.append(Unusable(str(path), error.line, error.reason))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            unusable.append(Unusable(str(path), 0, f"not compiled rules: {error}"))
    return Found(rules, unusable)


READERS: Mapping[str, Reader] = {".toml": read_toml, ".json": read_compiled}
"""What every program can read."""


def find_files(paths: Iterable[Path], suffixes: Iterable[str]) -> list[Path]:
    """Rule files among paths: files themselves, and those anywhere in folders, in order of name.

    Raises:
        RuleFileError: A path is not there, or there are too many.
    """
    wanted = set(suffixes)
    found: list[Path] = []
    for path in paths:
        try:
            if not stat.S_ISDIR(path.stat().st_mode):
                found.append(path)
                continue
            found += sorted(
                Path(each)
                for each in _beneath(path)
                if not each.name.startswith(".") and os.path.splitext(each.name)[1] in wanted  # noqa: PTH122 - a tenth of the time
            )
        except FileNotFoundError as error:
            raise RuleFileError(str(path), 0, "is not there") from error
        except OSError as error:
            raise RuleFileError(str(path), 0, f"cannot be read: {error.strerror}") from error
    if len(found) > FILES_MAX:
        raise RuleFileError(str(found[0].parent), 0, f"has more than {FILES_MAX} rule files")
    return found


def _beneath(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in a folder and the folders in it, linked ones too, each folder once.

    Raises:
        OSError: the folder itself cannot be read; those in it that cannot are passed over.
    """
    waiting, known = [str(folder)], set()
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)  # noqa: PTH116 - same
            if (status.st_dev, status.st_ino) in known:
                continue
            known.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(path))
        except OSError:
            if path == str(folder):
                raise
            continue
        yield from entries
        waiting += (each.path for each in entries if each.is_dir())


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


def load(
    settings: RulesSettings,
    filters: FilterSettings,
    *,
    folder: Path | None,
    today: str,
    readers: Mapping[str, Reader] = READERS,
) -> RuleBook:
    """Read and compile the rules in force.

    Args:
        settings: which are.
        filters: the lists they name.
        folder: of the rule files; None or a folder that is not there: the built-in rules alone.
        today: the date as text, to leave out exclusions that have expired.
        readers: by the suffix of a file's name.

    Raises:
        RuleFileError: the folder cannot be used at all.
    """
    found = Found()
    if _is_there(folder):
        found = read_files(find_files([folder], readers), readers)
    return assemble(found, settings, filters, today=today)


def assemble(
    found: Found,
    settings: RulesSettings,
    filters: FilterSettings,
    *,
    today: str,
    built_in: bool = True,
) -> RuleBook:
    """Put what was read and the built-in rules together; refuse what cannot be used."""
    own, unusable = _distinct(found)
    good: list[tuple[AnyRule, str]] = []
    for rule, file in sorted(own, key=lambda each: each[0].id):
        try:
            check_rule(rule, filters)
        except RuleError as error:
            why = str(error).removeprefix(f"{rule.id}: ")
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
        try:
            if mine:
                check_rule(current, filters)
        except RuleError as error:
            names = ", ".join(each.name for each in mine)
            why = f"is not tuned by {names}: {str(error).removeprefix(f'{rule.id}: ')}"
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


def fingerprint(
    folder: Path | None, suffixes: Iterable[str]
) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when a file of a folder does: names, inodes, times and sizes.

    Raises:
        RuleFileError: the folder cannot be read.
    """
    if not _is_there(folder):
        return ()
    seen = []
    for path in find_files([folder], suffixes):
        try:
            status = path.stat()
        except OSError:  # it has gone meanwhile
            continue
        seen.append((str(path), status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(seen)


def _without_rules(tunings: Iterable[tuple[Tuning, str]], known: Iterable[str]) -> list[Row]:
    """What tunes rules that are not here; on an agent, perhaps the workers have them."""
    there = set(known)
    return [
        Row(rule, f"tuning {each.name}", "lavender", "disabled", "there is no such rule", file)
        for each, file in tunings
        for rule in each.tunes
        if rule not in there
    ]


def _is_there(folder: Path | None) -> TypeGuard[Path]:
    if folder is None:
        return False
    try:
        folder.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RuleFileError(str(folder), 0, f"cannot be read: {error.strerror}") from error
    return True


def _distinct(found: Found) -> tuple[list[tuple[AnyRule, str]], list[Unusable]]:
    kept: dict[str, tuple[AnyRule, str]] = {}
    unusable = list(found.unusable)
    for rule, file in found.rules:
        first = kept.setdefault(rule.id, (rule, file))
        if first[0] is not rule:
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


def _source(file: str) -> str:
    return "sigma" if file.endswith((".yml", ".yaml")) else "lavender"


def _read(path: Path, most: int) -> bytes:
    try:
        # Not blocking: what is called a rule file may be a pipe that nobody writes to.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RuleFileError(str(path), 0, "is no file")
            raw = file.read(most + 1)
    except OSError as error:
        raise RuleFileError(str(path), 0, f"cannot be read: {error.strerror}") from error
    if len(raw) > most:
        raise RuleFileError(str(path), 0, f"is larger than {most >> 20} MiB, the most allowed")
    return raw
