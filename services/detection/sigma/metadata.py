"""What people read about a rule, from its Sigma document."""

from __future__ import annotations

import hashlib
import re
from typing import TypedDict, cast, get_args

from sigma.rule.attributes import SigmaStatus
from sigma.rule.base import SigmaRuleBase

from actors.detection.events import Level
from actors.detection.rules import Status

POINTS: dict[Level, int] = {
    "informational": 0,
    "low": 10,
    "medium": 25,
    "high": 45,
    "critical": 75,
}
_TECHNIQUE = re.compile(r"t[0-9]{4}(?:\.[0-9]{3})?")
_RETIRED = (SigmaStatus.DEPRECATED, SigmaStatus.UNSUPPORTED)


class Description(TypedDict):
    """The fields of `actors.detection.rules.Described` that Sigma has words for."""

    id: str
    label: str
    title: str
    description: str
    author: str
    references: tuple[str, ...]
    level: Level
    points: int
    techniques: tuple[str, ...]
    status: Status
    source: str


def description(rule: SigmaRuleBase) -> Description:
    """Return what a rule or a correlation says about itself."""
    named = str(rule.level) if rule.level is not None else "medium"
    level = cast("Level", named if named in get_args(Level) else "medium")
    techniques = (
        tag.name.upper()
        for tag in rule.tags
        if tag.namespace == "attack" and _TECHNIQUE.fullmatch(tag.name.lower())
    )
    return Description(
        id=str(rule.id) if rule.id is not None else slug(rule.title),
        label=rule.title,
        title=rule.title,
        description=_described(rule),
        author=rule.author or "",
        references=tuple(str(each) for each in rule.references),
        level=level,
        points=POINTS[level],
        techniques=tuple(dict.fromkeys(techniques)),
        status="disabled" if rule.status in _RETIRED else "active",
        source="sigma",
    )


def slug(title: str) -> str:
    """Return an id made of a title: the same title gives the same id, on every machine."""
    words = "-".join(re.findall(r"[a-z0-9]+", title.lower()))[:80]
    digest = hashlib.sha256(title.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"sigma-{words}-{digest}" if words else f"sigma-{digest}"


def _described(rule: SigmaRuleBase) -> str:
    known = [str(each) for each in rule.falsepositives if each is not None]
    parts = [(rule.description or "").strip()]
    if known:
        parts.append(f"Known false positives: {'; '.join(known)}")
    return "\n".join(part for part in parts if part)
