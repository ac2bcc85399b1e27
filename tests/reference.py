"""``python -m tests.reference``: docs/CONFIGURATION.md, from the models that validate the configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from actors.agent.default_topology import DEFAULT_TOPOLOGY
from actors.agent.endpoint import build_topology
from actors.agent.settings import Settings
from actors.runtime.spec import ChildSpec
from services.settings import Settings as ServiceSettings

_HEAD = """# Configuration

Written by `make docs` from the models; a test holds it to them.

`lavender.toml` is found in this order: `--config`; `LAVENDER_CONFIG` (naming a missing file is an error); the
nearest one walking up from the working directory; the nearest one walking up from the program's folder; else
built-in defaults, with a warning. Agent and services share the file; each reads the sections it needs and leaves the
others alone. An unknown key in a section that it reads, a wrong type or an impossible value stops a program with exit code 2
before it touches the kernel or the network, naming file, key, value and what would be right.

Every key has an environment override, `LAVENDER_<SECTION>__<KEY>`, whose value is read as TOML where it is TOML
(`20`, `true`, `["a", "b"]`) and as plain text otherwise. It goes before the file:

```sh
LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS=60 .venv/bin/python -m actors.agent --show-topology
```

A table of tables (`[topology.…]`) can be replaced by a variable only whole.

A list entry is a whole name; `*` and `?` are globs; an entry with `/` is matched against the executable's path. A
list that *detects* matches any name a program goes by. A list that *trusts* holds only for an executable in a system
folder (`/usr`, `/bin`, `/sbin`, `/lib*`, `/opt`) of the host, owned by root and writable by root alone. A sensitive file
matches by whole path components anywhere in a path; a glob there is matched over the whole path.

The defaults below are those of the program; the shipped `lavender.toml` sets lists that keep an ordinary machine quiet.
"""

_TAIL = """
A service without a `[topology.<service>]` of its own runs the one it prints with `--show-topology`; one that is written in the
file must name the kinds that are printed there.
"""


def render() -> str:
    """The document."""
    parts = [_HEAD]
    fields = {**Settings.model_fields, **ServiceSettings.model_fields}
    for section, field in fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            parts += _section(section, model)
    parts += [*_topology(), _TAIL]
    return "".join(parts)


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    """A section: who reads it, and a row for each key."""
    readers = [
        who
        for who, settings in (("the agent", Settings), ("the services", ServiceSettings))
        if name in settings.model_fields
    ]
    what = (model.__doc__ or "").partition(":")[2].strip().rstrip(".") or _WITHOUT_WORDS[name]
    yield f"\n## `[{name}]`\n\n{what[0].upper()}{what[1:]}. Read by {' and '.join(readers)}.\n\n"
    yield "| key | type | default | environment | meaning |\n|---|---|---|---|---|\n"
    shapes = model.model_json_schema()["properties"]
    for key, field in model.model_fields.items():
        variable = f"LAVENDER_{name.upper()}__{key.upper()}"
        meaning = field.description
        assert meaning, f"{name}.{key} has no description"
        yield f"| `{key}` | {kind_of(shapes[key])} | {_default(field.default)} | `{variable}` |"
        yield f" {meaning} |\n"


_WITHOUT_WORDS = {"filters": "what detection looks for and whom it believes"}


def kind_of(shape: Mapping[str, Any]) -> str:
    """What a value may be, out of its JSON schema: type and bounds."""
    if "anyOf" in shape:
        return " or ".join(kind_of(each) for each in shape["anyOf"] if each.get("type") != "null")
    if "enum" in shape:
        return ", ".join(f"`{each}`" for each in shape["enum"])
    if shape["type"] == "array":
        most = f", at most {shape['maxItems']}" if "maxItems" in shape else ""
        return f"list of {_many(shape['items'])}{most}"
    if shape["type"] in ("integer", "number"):
        return f"{shape['type']}, {_number(shape['minimum'])} to {_number(shape['maximum'])}"
    if shape.get("format") == "path":
        return "path"
    return {"boolean": "boolean", "string": "text"}[shape["type"]] + _text(shape)


def _many(shape: Mapping[str, Any]) -> str:
    kind = kind_of(shape)
    return f"({kind})" if "," in kind else kind


def _text(shape: Mapping[str, Any]) -> str:
    if "pattern" in shape:
        return f", `{shape['pattern'].replace('|', chr(92) + '|')}`"
    if "maxLength" in shape:
        return f", {shape.get('minLength', 0)} to {shape['maxLength']} characters"
    return ""


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    if value > 10**6 and value == 1 << power:
        return f"2^{power}"
    return str(int(value) if value == int(value) else value)


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"`{each}`" for each in value).replace("|", chr(92) + "|") or "empty"
    if value is None:
        return "none"
    if isinstance(value, Path | str):
        return f"`{value}`" if str(value) else "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _topology() -> Iterator[str]:
    """The agent's actors, with what they may be given."""
    table = DEFAULT_TOPOLOGY["agent"]
    yield "\n## `[topology.agent]`\n\nThe agent's actors and who tells whom. Read by the agent.\n\n"
    yield "| key | values | default | meaning |\n|---|---|---|---|\n"
    for key, values, meaning in _TOPOLOGY_KEYS:
        yield f"| `{key}` | {values} | `{table[key]}` | {meaning} |\n"
    yield f"\n{_ACTOR_TEXT}\n"
    yield "| actor | kind | tells | mailbox | restart |\n|---|---|---|---|---|\n"
    for child in build_topology(Settings()).children:
        yield _actor(child)


_TOPOLOGY_KEYS = (
    (
        "strategy",
        "`one_for_one`, `one_for_all`, `rest_for_one`",
        "Who is started again when an actor has crashed: it alone, all, or it and those after it.",
    ),
    ("max_restarts", "integer", "Restarts within `within_secs` that are put up with."),
    ("within_secs", "number", "The span in which restarts are counted; beyond, all stop."),
    ("drain_secs", "number", "How long a stop may take to finish what waits."),
)
_ACTOR_TEXT = """Each `[topology.agent.actors.<name>]` has a `kind`; the actors it tells (`to`, in this order); a `mailbox`
(`capacity` in messages, `overflow` `block`, `drop_newest` or `drop_oldest`); a `restart` type (`permanent`: always, `transient`: after a
crash, `temporary`: never); and, for a `ring_reader`, `options = { ring = "EXEC_EVENTS" }`. `--show-topology` prints what a file means.
The default, which the shipped file has too:
"""


def _actor(child: ChildSpec) -> str:
    told = ", ".join(f"`{each}`" for each in child.to) or "nobody"
    mailbox = f"{child.capacity}, `{child.overflow}`" if child.accepts else "none"
    return f"| `{child.name}` | `{child.kind}` | {told} | {mailbox} | `{child.restart}` |\n"


if __name__ == "__main__":
    sys.stdout.write(render())
