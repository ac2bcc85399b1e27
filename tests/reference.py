"""``python -m tests.reference``: docs/CONFIGURATION.md, from the models that validate the configuration."""

from __future__ import annotations

import sys
from typing import Any

from pydantic import BaseModel

from actors.agent.settings import Settings
from services.settings import Settings as ServiceSettings

_HEAD = """# Configuration

Written by `make docs` from the models; a test holds it to them.

`lavender.toml` is found in this order: `--config`; `LAVENDER_CONFIG` (naming a missing file is an error); the
nearest one walking up from the working directory; the nearest one walking up from the program's folder; else
built-in defaults, with a warning. Every key below has an environment override, `LAVENDER_<SECTION>__<KEY>`, whose
value is read as TOML where it is TOML and as plain text otherwise. An unknown key, a wrong type or an impossible
value stops the program with exit code 2 before it touches the kernel.

A list entry is a whole name; `*` and `?` are globs; an entry with `/` is matched against the executable's path. A
list that *detects* matches any name a program goes by. A list that *trusts* holds only for an executable in a system
folder (`/usr`, `/bin`, `/sbin`, `/lib*`, `/opt`) of the host, owned by root and writable by root alone. A sensitive file
matches by whole path components anywhere in a path; a glob there is matched over the whole path.

The defaults below are those of the program; the shipped `lavender.toml` sets lists that keep an ordinary machine quiet.
"""

_TAIL = """
## `[topology.agent]`

The agent's actors. `strategy` is `one_for_one`, `one_for_all` or `rest_for_one`; `max_restarts` within `within_secs`
stop everything; a stop drains within `drain_secs`. Each `[topology.agent.actors.<name>]` has a `kind`, the actors it
tells (`to`, in order), a `mailbox` (`capacity` in messages; `overflow` `block`, `drop_newest` or `drop_oldest`), a
`restart` type (`permanent`, `transient`, `temporary`) and, for a `ring_reader`, `options = { ring = "EXEC_EVENTS" }`.
Kinds: `ring_clock`, `ring_reader`, `correlator`, `responder`, `heartbeat`, `publisher`, `recorder`, `event_console`,
`alert_console`. `--show-topology` prints what a file means.

A service without a `[topology.<service>]` of its own runs the one it prints with `--show-topology`.
"""


def render() -> str:
    """The document."""
    parts = [_HEAD]
    fields = {**Settings.model_fields, **ServiceSettings.model_fields}
    for section, field in fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            parts.append(f"\n## `[{section}]`\n\n| key | default | meaning |\n|---|---|---|\n")
            parts += [_row(key, each) for key, each in model.model_fields.items()]
    parts.append(_TAIL)
    return "".join(parts)


def _row(key: str, field: Any) -> str:
    default = field.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else repr(default)
    return f"| `{key}` | {shown.replace('|', chr(92) + '|') or '(none)'} | {field.description} |\n"


if __name__ == "__main__":
    sys.stdout.write(render())
