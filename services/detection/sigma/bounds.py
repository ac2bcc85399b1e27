"""Bounds of a YAML text, counted event by event and without recursion before anything is built."""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml

from services.detection.sigma.refusals import Invalid

DOCUMENTS_MAX = 1000
NODES_MAX = 50_000
"""Values and names of one file, with the aliases expanded."""
DEPTH_MAX = 24

_TAGS = {None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "null", "map", "seq"))}


def check(text: str) -> None:
    """Walk a text's events.

    Raises:
        Invalid: It would grow beyond a bound, or asks for other than plain data.
        yaml.YAMLError: It is not YAML.
    """
    meter = _Meter()
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        try:
            meter.take(event)
        except Invalid as error:
            mark = event.start_mark
            error.line = mark.line + 1 if mark is not None else 1
            raise


@dataclass(slots=True)
class _Meter:
    """What the events so far would become as values, with their aliases expanded."""

    documents: int = 0
    nodes: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    """Nodes under each anchor whose end has been seen."""
    open_at: list[tuple[str | None, int]] = field(default_factory=list)
    """Anchors of the collections around, and the nodes before each."""

    def take(self, event: yaml.Event) -> None:
        """Count one event.

        Raises:
            Invalid: It goes beyond a bound.
        """
        match event:
            case yaml.DocumentStartEvent():
                self.sizes.clear()
                self.documents += 1
            case yaml.AliasEvent():
                self._expand(event.anchor or "")
            case yaml.ScalarEvent():
                self._begin(event)
                self._end()
            case yaml.CollectionStartEvent():
                self._begin(event)
            case yaml.CollectionEndEvent():
                self._end()
        if self.documents > DOCUMENTS_MAX:
            raise Invalid(f"more than {DOCUMENTS_MAX} documents in one file")
        if self.nodes > NODES_MAX:
            raise Invalid(f"more than {NODES_MAX:,} values, aliases expanded")

    def _begin(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag not in _TAGS:
            raise Invalid(f"the tag {event.tag} is not plain data")
        self.sizes.pop(event.anchor or "", None)  # an alias to it from inside would be a loop
        self.open_at.append((event.anchor, self.nodes))
        self.nodes += 1
        if len(self.open_at) > DEPTH_MAX:
            raise Invalid(f"nested more than {DEPTH_MAX} deep")

    def _end(self) -> None:
        anchor, before = self.open_at.pop()
        if anchor is not None:
            self.sizes[anchor] = self.nodes - before

    def _expand(self, anchor: str) -> None:
        if anchor not in self.sizes:
            raise Invalid(f"the alias *{anchor} stands for nothing before it")
        self.nodes += self.sizes[anchor]
