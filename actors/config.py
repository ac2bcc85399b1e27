"""Configuration: find ``lavender.toml``, add the environment's overrides, validate.

Agent and services share it; each brings the model of the sections it reads. Errors name file, key,
value and what would be right, all problems at once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli
from pydantic import BaseModel, ValidationError

FILE_NAME = "lavender.toml"
SECTIONS = (
    *("agent", "filters", "response", "publish", "rules", "topology"),
    *(
        "broker",
        "store",
        "ingest",
        "telemetry_writer",
        "alert_writer",
        "ledger",
        "detection",
        "stack",
    ),
)
"""Every section there is. One file serves agent and services; each program validates its own."""
ENV_FILE = "LAVENDER_CONFIG"
_ENV_PREFIX = "LAVENDER_"
_SIZE_MAX_BYTES = 1 << 20

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Exception):
    """The configuration cannot be used; the text is for the person who wrote it."""


@dataclass(frozen=True)
class Source:
    """Where the configuration came from."""

    path: Path | None
    """None for the built-in defaults."""

    def __str__(self) -> str:
        return str(self.path) if self.path else "built-in defaults"


def find_file(
    environment: Mapping[str, str], *, start: Path, program: Path, chosen: Path | None = None
) -> Path | None:
    """The configuration file, or None if there is none anywhere.

    Args:
        environment: for ``LAVENDER_CONFIG``.
        start: walk up from here first.
        program: then from here; a wheel brings the file in this package.
        chosen: named on the command line; goes before all else.

    Raises:
        ConfigError: a file was named and is not there.
    """
    named = str(chosen) if chosen else environment.get(ENV_FILE)
    if named:
        if not _is_file(Path(named)):
            origin = "--config" if chosen else ENV_FILE
            raise ConfigError(f"{origin} names {named}, and there is no such file")
        return Path(named)
    folders = (*_upwards(start), *_upwards(program), Path(__file__).resolve().parent)
    return next((folder / FILE_NAME for folder in folders if _is_file(folder / FILE_NAME)), None)


def _upwards(folder: Path) -> tuple[Path, ...]:
    return (folder, *folder.parents)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a folder that is not ours to look into
        return False


def read_file(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it cannot be read, is too large or is not TOML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_SIZE_MAX_BYTES + 1)
        if len(raw) > _SIZE_MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_SIZE_MAX_BYTES} bytes")
        return tomli.loads(raw.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def apply_environment(
    tables: Mapping[str, Any], environment: Mapping[str, str], *, model: type[BaseModel]
) -> dict[str, Any]:
    """The tables with every ``LAVENDER_<SECTION>__<KEY>`` put in.

    A value is read as TOML where it is TOML (``20``, ``true``, ``["a"]``), else as plain text.

    Raises:
        ConfigError: a variable names no section, or no key of a section's own.
    """
    known = {section.upper(): section for section in (*SECTIONS, *model.model_fields)}
    merged = {
        name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()
    }
    for variable, text in environment.items():
        if not variable.startswith(_ENV_PREFIX) or variable == ENV_FILE:
            continue
        section, separator, key = variable.removeprefix(_ENV_PREFIX).partition("__")
        if not separator or section not in known:
            raise ConfigError(
                f"environment: {variable} names no key; {_did_you_mean(variable, model)}"
            )
        if "__" in key:
            raise ConfigError(
                f"environment: {variable} names no key of a section; a table inside one can only "
                "be replaced whole, or changed in the file"
            )
        table = merged.setdefault(known[section], {})
        if isinstance(table, dict):
            table[key.lower()] = _value(text)
    return merged


def _did_you_mean(variable: str, model: type[BaseModel]) -> str:
    names = [
        _variable((section, key))
        for section in model.model_fields
        for key in _keys(model, [section])
    ]
    near = difflib.get_close_matches(variable, [ENV_FILE, *names], n=1, cutoff=0.75)
    return (
        f"did you mean {near[0]}?" if near else f"the form is {_variable(('<section>', '<key>'))}"
    )


def _variable(path: Iterable[int | str]) -> str:
    return _ENV_PREFIX + "__".join(str(part).upper() for part in path)


def _value(text: str) -> Any:
    try:
        found = tomli.loads(f"value = {text}")
    except (tomli.TOMLDecodeError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text


def load(
    model: type[Model],
    *,
    start: Path,
    program: Path,
    chosen: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Model, Source]:
    """The validated configuration and where it came from.

    Raises:
        ConfigError: with every problem found.
    """
    environment = os.environ if environment is None else environment
    path = find_file(environment, start=start, program=program, chosen=chosen)
    source = Source(path)
    tables = read_file(path) if path else {}
    tables = apply_environment(tables, environment, model=model)
    foreign = set(SECTIONS) - set(model.model_fields)
    own = {name: table for name, table in tables.items() if name not in foreign}
    try:
        return model.model_validate(own), source
    except ValidationError as error:
        lines = [
            f"{_origin(item['loc'], environment) or source}: {_problem(item, model)}"
            for item in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None


def _origin(path: tuple[int | str, ...], environment: Mapping[str, str]) -> str:
    """The variable that gave the value at ``path``; empty if none did."""
    variable = _variable(path[:2])
    return f"environment: {variable}" if variable in environment else ""


def _problem(item: Any, model: type[BaseModel]) -> str:
    path = [str(part) for part in item["loc"]]
    shown = repr(item["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _keys(model, path[:-1]), n=1)
        remedy = f"; did you mean {near[0]}?" if near else "; remove it"
        return f"{key} = {shown}: there is no such key{remedy}"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key} = {shown}: {message}"


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type):
            return []
        if not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)
