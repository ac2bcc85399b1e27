"""Bounds: what is encoded is held to what its reader will take.

A decoder refuses what is beyond the bounds of its type; an encoder does not look at them. What is
made of others' numbers and texts and is rare (alerts) is therefore decoded once before it goes out,
and cut to its bounds if need be: an alert with a shorter text is better than none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T", bound=msgspec.Struct)
_encode = msgspec.json.Encoder().encode


def encode_checked(message: msgspec.Struct) -> bytes:
    """The JSON of a message that decodes again as what it is.

    Raises:
        msgspec.ValidationError: it does not, not even cut to its bounds.
    """
    payload = _encode(message)
    decode = _decoder(type(message))
    try:
        decode(payload)
    except msgspec.ValidationError:
        payload = _encode(cut(message))
        decode(payload)
    return payload


def cut(message: T) -> T:
    """A message with its texts and lists shortened, and its numbers moved, to their bounds."""
    return msgspec.structs.replace(
        message,
        **{
            field.name: _cut(getattr(message, field.name), field.type)
            for field in _fields(type(message))
        },
    )


@lru_cache
def _decoder(kind: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(kind).decode


@lru_cache
def _fields(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    found = inspect.type_info(kind)
    return found.fields if isinstance(found, inspect.StructType) else ()


def _cut(value: Any, kind: inspect.Type) -> Any:  # noqa: PLR0911 - a table by kind
    if isinstance(kind, inspect.Metadata):
        return _cut(value, kind.type)
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            if _is_of(value, each):
                return _cut(value, each)
        return value
    if isinstance(kind, inspect.StrType) and isinstance(value, str):
        return value[: kind.max_length]
    if isinstance(kind, inspect.IntType) and isinstance(value, int):
        return _between(value, kind.ge, kind.le)
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        return [_cut(each, kind.item_type) for each in value[: kind.max_length]]
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, tuple):
        return tuple(_cut(each, kind.item_type) for each in value[: kind.max_length])
    if isinstance(value, msgspec.Struct):
        return cut(value)
    return value


def _is_of(value: Any, kind: inspect.Type) -> bool:
    kinds = {
        inspect.StrType: str,
        inspect.IntType: int,
        inspect.ListType: list,
        inspect.VarTupleType: tuple,
    }
    inner = kind.type if isinstance(kind, inspect.Metadata) else kind
    expected = kinds.get(type(inner))
    return expected is not None and isinstance(value, expected)


def _between(value: int, low: int | None, high: int | None) -> int:
    if low is not None and value < low:
        return low
    return high if high is not None and value > high else value
