"""What is wrong with a table of a file, in words that say what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import inspect

_ENUM = re.compile(r"Invalid enum value '(.*)'", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def complaint(error: msgspec.ValidationError, model: type[Any]) -> tuple[list[str], str]:
    """Return the keys that lead to what is wrong, and what that is.

    Args:
        error: of `msgspec.convert`.
        model: what was wanted.
    """
    message, _, where = str(error).partition(" - at `$")
    keys = re.findall(r"[A-Za-z_]+", where)
    key = where.strip("`").lstrip(".")
    shape = _shape(inspect.type_info(model), keys)
    if (found := _UNKNOWN.fullmatch(message)) is not None:
        names = [each.encode_name for each in shape.fields] if _is_struct(shape) else []
        name = found[1]
        where_text = f" in {key}" if key else ""
        return [*keys, name], f"there is no key {name}{where_text}{_remedy(name, names)}"
    if (found := _ENUM.fullmatch(message)) is not None and (known := list(_words(shape))):
        return (
            keys,
            f"{key}: {found[1]!r} is not one of {', '.join(known)}{did_you_mean(found[1], known)}",
        )
    return keys, f"{key}: {message}" if key else message


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``; did you mean X?`` where one of the words is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def _remedy(name: str, names: Sequence[str]) -> str:
    return did_you_mean(name, names) or (f"; there are {', '.join(names)}" if names else "")


def _is_struct(shape: Any) -> bool:
    return isinstance(shape, inspect.StructType)


def _shape(shape: Any, keys: Sequence[str]) -> Any:
    """The type at the end of a path; a key of a dict is none of a struct, and is passed over."""
    shape = _bare(shape)
    for key in keys:
        fields = shape.fields if _is_struct(shape) else ()
        found = next((each.type for each in fields if each.encode_name == key), shape)
        shape = _bare(found)
    return shape


def _bare(shape: Any) -> Any:
    """Without what may be absent, and what gathers many."""
    while True:
        if isinstance(shape, inspect.UnionType):
            kinds = [each for each in shape.types if not isinstance(each, inspect.NoneType)]
            if len(kinds) != 1:
                return shape
            shape = kinds[0]
        elif isinstance(shape, inspect.DictType):
            shape = shape.value_type
        elif isinstance(shape, inspect.ListType | inspect.VarTupleType):
            shape = shape.item_type
        else:
            return shape


def _words(shape: Any) -> Iterable[str]:
    return map(str, shape.values) if isinstance(shape, inspect.LiteralType) else ()
