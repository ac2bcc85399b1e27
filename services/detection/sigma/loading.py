"""Sigma files, loaded together: every document gives a rule or a refusal.

A correlation names its rules by id or by name, among the documents that are loaded in one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from sigma.correlations import SigmaCorrelationRule

from actors.detection.rules import AnyRule, Rule, Sequence
from services.detection.sigma import documents, sources, translation
from services.detection.sigma.documents import Document
from services.detection.sigma.joining import Draft, join
from services.detection.sigma.metadata import description
from services.detection.sigma.parsing import expressions, parsed, variants
from services.detection.sigma.refusals import Invalid, Refusal, Refused, unexpected

_SHOWN_MAX = 256
_EXPRESSIONS_MAX = 1000
"""In one file; each may take milliseconds to compile."""
_VARIANTS_MAX = 20_000
"""In one file, of the values that windash multiplies."""
_SUFFIXES = {".yml", ".yaml"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rule or a sequence, and where it stands."""

    rule: AnyRule
    path: str
    line: int
    notes: tuple[str, ...] = ()
    """What it asks for that Lavender lacks, though it can fire without."""


@dataclass(frozen=True, slots=True)
class Results:
    """What came of the documents, each in the order of the files."""

    loaded: tuple[Loaded, ...]
    refusals: tuple[Refusal, ...]

    @property
    def rules(self) -> tuple[AnyRule, ...]:
        """The rules and sequences alone."""
        return tuple(each.rule for each in self.loaded)


def load(text: str, path: str | Path) -> Results:
    """Return what the documents of one file give; ``path`` is how people know it."""
    return _results(_drafts(text, str(path)))


def load_files(paths: Iterable[str | Path]) -> Results:
    """Return what files give together; a folder stands for the YAML files below it."""
    return _results(draft for path in _files(paths) for draft in _read(path))


def _files(paths: Iterable[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES)
        else:
            yield path


def _read(path: Path) -> Iterator[Draft]:
    """The documents of a file; one refused draft if it cannot be read."""
    try:
        if not path.is_file():
            raise Invalid("there is no such file", line=1)
        size = path.stat().st_size
        if size > documents.SIZE_MAX:
            raise Invalid(f"the file has {size:,} bytes, more than {documents.SIZE_MAX:,}", line=1)
        with path.open("rb") as file:
            text = documents.decoded(file.read(documents.SIZE_MAX + 1))
    except Refused as refused:
        yield Draft(path=str(path), line=1, refused=refused)
    except OSError as error:
        yield Draft(path=str(path), line=1, refused=Invalid(error.strerror or error, line=1))
    else:
        yield from _drafts(text, str(path))


def _drafts(text: str, path: str) -> Iterator[Draft]:
    try:
        found = documents.documents(text)
        _check_cost(found)
    except Refused as refused:
        yield Draft(path=path, line=1, refused=refused)
        return
    except Exception as error:  # noqa: BLE001 - whatever a file holds is that file's problem
        yield Draft(path=path, line=1, refused=unexpected(error, line=1))
        return
    for document in found:
        draft = Draft(
            path=path,
            line=document.line,
            id=_text(document.data.get("id")),
            title=_text(document.data.get("title")),
            name=_text(document.data.get("name")),
        )
        try:
            _fill(draft, document)
        except Refused as refused:
            draft.refused = refused
        except Exception as error:  # noqa: BLE001 - same
            draft.refused = unexpected(error)
        yield draft


def _check_cost(found: list[Document]) -> None:
    """Refuse a small file that would become much."""
    if sum(map(expressions, found)) > _EXPRESSIONS_MAX:
        raise Invalid(f"more than {_EXPRESSIONS_MAX:,} regular expressions in one file", line=1)
    if sum(map(variants, found)) > _VARIANTS_MAX:
        raise Invalid(f"windash makes more than {_VARIANTS_MAX:,} values of one file", line=1)


def _fill(draft: Draft, document: Document) -> None:
    """Make a draft of a rule whole; a correlation waits for the others.

    Raises:
        Refused: It is broken, or not for Lavender.
    """
    sigma = parsed(document)
    about = description(sigma)
    draft.id, draft.name = about["id"], sigma.name or ""
    if isinstance(sigma, SigmaCorrelationRule):
        draft.correlation = sigma
        return
    try:
        views = sources.views(sigma.logsource)
    except Refused as refused:
        refused.line = document.line_of("logsource")
        raise
    result = translation.translate(sigma.detection, views, document)
    draft.views, draft.notes = result.views, result.notes
    draft.rule = Rule(
        **about,  # type: ignore[arg-type] # mypy: the source is a word of Literal
        matches=result.matches,
    )


def _results(drafts: Iterable[Draft]) -> Results:
    whole = list(drafts)
    join(whole)
    for draft in whole:
        if draft.refused is None:
            draft.refused = _unfit(draft.rule)
    return Results(
        tuple(
            Loaded(draft.rule, draft.path, draft.line, draft.notes)
            for draft in whole
            if draft.rule is not None and draft.refused is None
        ),
        tuple(_refusal(draft, draft.refused) for draft in whole if draft.refused is not None),
    )


def _unfit(rule: AnyRule | None) -> Refused | None:
    """Why a rule cannot be written to a file and read back, as every rule must."""
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(rule), type=Rule | Sequence)
    except (msgspec.MsgspecError, OverflowError, UnicodeError) as error:
        return Invalid(f"not fit for the engine: {error}")
    return None


def _refusal(draft: Draft, refused: Refused) -> Refusal:
    return Refusal(
        path=draft.path,
        line=refused.line or draft.line,
        id=draft.id,
        title=draft.title,
        kind=refused.kind,
        reason=str(refused),
    )


def _text(value: object) -> str:
    return value[:_SHOWN_MAX] if isinstance(value, str) else ""
