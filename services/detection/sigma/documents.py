"""YAML documents, read with every bound that hostile text calls for.

The text is first walked event by event, without recursion, to count what it would become with its
aliases expanded; only what stays within the bounds is composed. Texts that YAML 1.1 would turn into
something else (``0777``, ``1:30``, ``2024-01-01``, ``1.10``) stay the text that was written: rules
compare them with text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from services.detection.sigma.refusals import Invalid

SIZE_MAX = 1 << 20
"""Bytes of a file."""
DOCUMENTS_MAX = 1000
NODES_MAX = 50_000
"""Values and names of one file, with the aliases expanded."""
DEPTH_MAX = 24

_TAGS = {None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "null", "map", "seq"))}


@dataclass(frozen=True, slots=True)
class Document:
    """One mapping of a file, and where its parts stand."""

    line: int
    data: dict[str, Any]
    node: yaml.MappingNode

    def line_of(self, *names: str) -> int:
        """Return the line of what these names lead to, as far as they lead.

        A name stands for itself with modifiers too: ``Image`` finds ``Image|endswith``.
        """
        line = self.line
        node: yaml.Node = self.node
        for name in names:
            key, value = _find(node, name)
            if key is None:
                break
            line, node = _line(key), value
        return line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, for plain data only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - yaml's way


def _number(_: _Loader, node: yaml.ScalarNode) -> float | str:
    """A fraction; the text where a number would not be written like that."""
    number = float(node.value)
    return number if str(number) == node.value else str(node.value)


for _name, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$",
     list("yYnNtTfFoO")),
    ("int", r"^-?(?:0|[1-9][0-9]{0,17})$", list("-0123456789")),
    ("float", r"^-?[0-9]{1,15}\.[0-9]{1,15}$", list("-0123456789")),
    ("merge", r"^(?:<<)$", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def decoded(raw: bytes) -> str:
    """Return the text of a file.

    Raises:
        Invalid: It is too large, or not UTF-8.
    """
    if len(raw) > SIZE_MAX:
        raise Invalid(f"the file is larger than {SIZE_MAX:,} bytes", line=1)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Invalid(f"not UTF-8: byte {raw[error.start]:#04x}", line=line) from None


def documents(text: str) -> list[Document]:
    """Return the documents of a file that are not empty.

    Raises:
        Invalid: The text is not YAML, not plain mappings, or beyond a bound; nothing of it is read.
    """
    if len(text) > SIZE_MAX or len(text.encode("utf-8", "surrogatepass")) > SIZE_MAX:
        raise Invalid(f"the file is larger than {SIZE_MAX:,} bytes", line=1)
    try:
        _measure(text)
        return list(_composed(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "broken"
        raise Invalid(f"not YAML: {said}", line=mark.line + 1 if mark else 1) from None
    except (yaml.YAMLError, ValueError) as error:
        raise Invalid(f"not YAML: {error}", line=1) from None


def _composed(text: str) -> Iterator[Document]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
                continue
            line = _line(node)
            if not isinstance(node, yaml.MappingNode):
                raise Invalid("a rule is a mapping of names to values", line=line)
            _check_names(node)
            data: dict[str, Any] = loader.construct_document(node)
            yield Document(line, data, node)
    finally:
        loader.dispose()


def _measure(text: str) -> None:
    """Refuse what would grow beyond the bounds, without composing it."""
    meter = _Meter()
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        try:
            meter.take(event)
        except Invalid as error:
            error.line = _line(event)
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


def _line(of: yaml.Event | yaml.Node) -> int:
    return of.start_mark.line + 1 if of.start_mark is not None else 1


def _check_names(node: yaml.Node) -> None:
    """Refuse mappings with a name twice, or with names that are not text."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check_names(each)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        line = _line(key)
        if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a collection"
            raise Invalid(f"the name {shown} is not text; put it in quotes", line=line)
        if key.value in seen:
            raise Invalid(f"the name {key.value} stands twice in one mapping", line=line)
        seen.add(key.value)
        _check_names(value)


def _find(node: yaml.Node, name: str) -> tuple[yaml.Node | None, yaml.Node]:
    """The key and the value of a name in a mapping, or in the mappings of a list."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            key, value = _find(each, name)
            if key is not None:
                return key, value
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value.split("|")[0] == name:
                return key, value
    return None, node
