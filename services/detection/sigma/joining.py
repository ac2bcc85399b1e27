"""The documents of one call, joined: no id twice, correlations with the rules they refer to."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import msgspec
from sigma.correlations import SigmaCorrelationRule

from actors.detection.rules import AnyRule, Rule
from services.detection.sigma.correlations import Referred, references, sequence
from services.detection.sigma.fields import View
from services.detection.sigma.refusals import Invalid, Refused, Unsupported, unexpected


@dataclass(slots=True, eq=False)
class Draft:
    """A document on its way to a rule or a refusal."""

    path: str
    line: int
    id: str = ""
    title: str = ""
    name: str = ""
    """What correlations may call it, beside its id."""
    correlation: SigmaCorrelationRule | None = None
    views: tuple[View, ...] = ()
    """What can fulfil it."""
    notes: tuple[str, ...] = ()
    rule: AnyRule | None = None
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class _Catalogue:
    """Drafts by what correlations call them."""

    by_id: dict[str, Draft]
    by_name: dict[str, Draft]

    def find(self, reference: str) -> Draft:
        """Return what is called so.

        Raises:
            Invalid: Nothing is.
        """
        try:
            found = self.by_id.get(str(UUID(reference)))
        except ValueError:
            found = None
        found = found or self.by_name.get(reference)
        if found is None:
            raise Invalid(f"rule {reference}: it is not among the rules that are loaded")
        return found


def join(drafts: list[Draft]) -> None:
    """Make sequences of the correlations, and refuse what the documents are only together."""
    catalogue = _catalogue(drafts)
    waiting = [each for each in drafts if each.correlation is not None and each.refused is None]
    while waiting:
        ready = [each for each in waiting if not _awaited(each, waiting, catalogue)]
        if not ready:
            _refuse_cycles(waiting, catalogue)
            return
        for draft in ready:
            _resolve(draft, catalogue)
        waiting = [each for each in waiting if each not in ready]
    _silence(drafts, catalogue)


def _catalogue(drafts: list[Draft]) -> _Catalogue:
    """Name the drafts; what is called like one before it is refused."""
    catalogue = _Catalogue({}, {})
    for draft in (each for each in drafts if each.refused is None):
        for what, key, known in (
            ("id", draft.id, catalogue.by_id),
            ("name", draft.name, catalogue.by_name),
        ):
            first = known.setdefault(key, draft) if key else draft
            if first is not draft:
                draft.rule = None
                draft.refused = Invalid(f"the {what} {key} is taken by {first.path}:{first.line}")
                break
    for draft in (each for each in drafts if each.refused is not None):
        catalogue.by_id.setdefault(draft.id.lower(), draft)
        catalogue.by_name.setdefault(draft.name, draft)
    return catalogue


def _awaited(draft: Draft, waiting: list[Draft], catalogue: _Catalogue) -> list[Draft]:
    """The correlations that a correlation refers to and that are not resolved yet."""
    assert draft.correlation is not None  # noqa: S101 - only those wait
    try:
        found = [catalogue.find(each) for each in references(draft.correlation)]
    except Refused:
        return []
    return [each for each in found if each in waiting]


def _resolve(draft: Draft, catalogue: _Catalogue) -> None:
    correlation = draft.correlation
    assert correlation is not None  # noqa: S101 - only those are resolved
    try:
        targets = {each: catalogue.find(each) for each in references(correlation)}
        referred = {
            each: _referred(each, target, generate=correlation.generate)
            for each, target in targets.items()
        }
        draft.rule = sequence(correlation, referred)
    except Refused as refused:
        draft.refused = refused
        return
    except Exception as error:  # noqa: BLE001 - whatever a file holds is that file's problem
        draft.refused = unexpected(error)
        return
    draft.views = tuple(view for each in referred.values() for view in each.views)
    draft.notes = tuple(dict.fromkeys(note for each in targets.values() for note in each.notes))


def _referred(reference: str, target: Draft, *, generate: bool) -> Referred:
    """What a correlation needs of a rule.

    Raises:
        Refused: The rule was refused, or is a correlation that cannot be a step.
    """
    if target.rule is None:
        refused = target.refused or Invalid("it gives no rule")
        raise type(refused)(f"rule {reference}, which it refers to, is refused: {refused}")
    if isinstance(target.rule, Rule):
        return Referred(reference, target.rule.matches, target.views)
    if len(target.rule.steps) == 1 and target.rule.count == 1 and generate:
        return Referred(reference, target.rule.steps[0].matches, target.views)
    raise Unsupported(
        f"rule {reference} is a correlation itself: only one that is of a single event and that"
        " raises alerts too (generate: true) can be part of another"
    )


def _refuse_cycles(waiting: list[Draft], catalogue: _Catalogue) -> None:
    """Name the cycle that each of these is in, or leads to."""
    for draft in waiting:
        chain = [draft]
        while (following := _awaited(chain[-1], waiting, catalogue)[0]) not in chain:
            chain.append(following)
        cycle = [*chain[chain.index(following) :], following]
        shown = " → ".join(each.name or each.id for each in cycle)
        draft.refused = Invalid(f"a cycle among correlations: {shown}")


def _silence(drafts: list[Draft], catalogue: _Catalogue) -> None:
    """Rules of correlations raise no alerts themselves, unless these say ``generate``."""
    for draft in drafts:
        if draft.correlation is None or draft.rule is None or draft.correlation.generate:
            continue
        if draft.rule.status == "disabled":
            continue
        for each in references(draft.correlation):
            target = catalogue.find(each)
            if isinstance(target.rule, Rule):
                target.rule = msgspec.structs.replace(target.rule, silent=True)
