"""YAML documents, read with every bound that hostile text calls for.

The text is measured before it is composed (``bounds``). Texts that YAML 1.1 would turn into
something else (``0777``, ``1:30``, ``2024-01-01``, ``1.10``) stay the text that was written: rules
compare them with text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from services.detection.sigma import bounds
from services.detection.sigma.refusals import Invalid

SIZE_MAX = 1 << 20
"""Bytes of a file."""


@dataclass(frozen=True, slots=True)
class Document:
    """One mapping of a file, and where its parts stand."""

    line: int
    data: dict[str, Any]
    node: yaml.MappingNode
    index: dict[int, dict[str, tuple[int, yaml.Node]]] = field(default_factory=dict)
    """Names below a node, by its identity: filled in as they are asked for."""

    def line_of(self, *names: str) -> int:
        """Return the line of what these names lead to, as far as they lead.

        A name stands for itself with modifiers too: ``Image`` finds ``Image|endswith``.
        """
        line = self.line
        node: yaml.Node = self.node
        for name in names:
            if id(node) not in self.index:
                self.index[id(node)] = _names(node)
            if name not in self.index[id(node)]:
                break
            line, node = self.index[id(node)][name]
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
        bounds.check(text)
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


def _names(node: yaml.Node) -> dict[str, tuple[int, yaml.Node]]:
    """The names in a mapping, or in the mappings of a list; the first of each."""
    found: dict[str, tuple[int, yaml.Node]] = {}
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            for name, place in _names(each).items():
                found.setdefault(name, place)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found.setdefault(key.value.split("|")[0], (_line(key), value))
    return found
