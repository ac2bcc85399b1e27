"""``python -m tests.streams_reference``: docs/EVENT_STREAMS_AND_INTERFACES.md, from the types.

Types, bounds and defaults are those that msgspec checks; meanings are the docstrings that stand
below the fields; examples are made of the types (`tests.streams_examples`).
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect as shapes

from actors import recordings
from actors.agent import render
from actors.detection import events
from bpf.records import COUNTERS, PROBES
from tests.streams_examples import EXAMPLES
from tests.streams_text import (
    BATCHES,
    COMMANDS,
    HEAD,
    LEDGER,
    LINE_FIELDS,
    LINE_SECTIONS,
    LOCAL_HEAD,
    RECORDINGS,
    V1,
)
from transport import deliveries, messages, streams

_HOUR_SECS = 3600
_CONSUMERS = (
    streams.INGEST,
    streams.TELEMETRY_WRITER,
    streams.DETECTION,
    streams.ALERT_WRITER,
    streams.INVALID_WRITER,
)
_DEAD_HEADERS = (
    (deliveries.ORIGINAL_SUBJECT, "the subject it was published on"),
    (deliveries.ORIGINAL_STREAM, "the stream it was in"),
    (deliveries.ORIGINAL_SEQUENCE, "its number in that stream"),
    (deliveries.ORIGINAL_ID, "its message id"),
    (deliveries.ORIGINAL_BYTES, "its size; the payload here may be cut"),
    (deliveries.DELIVERIES, "how often it was delivered"),
)


@cache
def meanings(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class and of those it extends."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if not each.__module__.startswith(("actors.", "transport.", "services.", "tests.")):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:], strict=False):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[node.target.id] = " ".join(str(after.value.value).split())
    return found


def kind_of(shape: Any) -> str:
    """What a field may be, with its bounds."""
    return _KINDS[type(shape)](shape)


def _integer(shape: shapes.IntType) -> str:
    if shape.le is None:
        return "integer"
    return f"integer, {_number(shape.ge)} to {_number(shape.le)}"


def _list(shape: shapes.ListType | shapes.VarTupleType) -> str:
    most = "" if shape.max_length is None else f", at most {shape.max_length}"
    return f"list of {_many(kind_of(shape.item_type))}{most}"


def _many(kind: str) -> str:
    return "events" if kind.count("](#") > 1 else f"({kind})" if "," in kind else kind


def _number(value: int | None) -> str:
    assert value is not None
    power = (value + 1).bit_length() - 1
    return f"2^{power} - 1" if value > 10**6 and value + 1 == 1 << power else str(value)


def _text(shape: shapes.StrType) -> str:
    if shape.pattern == messages.Token.__metadata__[0].pattern:  # type: ignore[attr-defined]
        return "subject token, 1 to 64 characters without `.` `*` `>` and white space"
    if shape.pattern:
        return f"text, `{shape.pattern}`"
    if shape.max_length is None:
        return "text"
    least = f"{shape.min_length} to " if shape.min_length else "at most "
    return f"text, {least}{shape.max_length} characters"


_KINDS: Mapping[type, Callable[[Any], str]] = {
    shapes.IntType: _integer,
    shapes.FloatType: lambda _: "number",
    shapes.BoolType: lambda _: "boolean",
    shapes.StrType: _text,
    shapes.NoneType: lambda _: "null",
    shapes.AnyType: lambda _: "anything",
    shapes.LiteralType: lambda shape: ", ".join(f"`{each}`" for each in shape.values),
    shapes.UnionType: lambda shape: " or ".join(map(kind_of, shape.types)),
    shapes.ListType: _list,
    shapes.VarTupleType: _list,
    shapes.DictType: lambda shape: f"object of {kind_of(shape.value_type)}",
    shapes.StructType: lambda shape: f"[{shape.cls.__name__}](#{shape.cls.__name__.lower()})",
}


def fields(cls: type[msgspec.Struct]) -> Iterator[str]:
    """The rows of a table of a type's fields."""
    shape = shapes.type_info(cls)
    assert isinstance(shape, shapes.StructType)
    yield "| field | type | default | meaning |\n|---|---|---|---|\n"
    if shape.tag is not None:
        yield f"| `{shape.tag_field}` | `{shape.tag}` | | tells the forms apart |\n"
    known = meanings(cls)
    for field in shape.fields:
        default = "" if field.required else f"`{_default(field)}`"
        meaning = known[field.name].replace("``", "`").replace("|", "\\|")
        kind = kind_of(field.type).replace("|", "\\|")
        yield f"| `{field.encode_name}` | {kind} | {default} | {meaning} |\n"


def _default(field: shapes.Field) -> str:
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    return "absent" if value is msgspec.UNSET else msgspec.json.encode(value).decode()


def example(name: str) -> str:
    """An example, marked so that a test finds it."""
    raw = EXAMPLES[name].text()
    shown = raw if EXAMPLES[name].lines else msgspec.json.format(raw, indent=2)
    return f"\n<!-- example: {name} -->\n```json\n{shown.decode().rstrip()}\n```\n"


def section(cls: type[msgspec.Struct], *, level: str = "###", shown: str = "") -> Iterator[str]:
    """A type: its heading, what it is, its fields, an example."""
    text = " ".join((cls.__doc__ or "").split()).replace("``", "`")
    text = text.replace("`EVENTS_MAX`", str(messages.EVENTS_MAX))
    yield f"\n{level} {cls.__name__}\n\n{text}\n\n"
    yield from fields(cls)
    if shown:
        yield example(shown)


def sections(*types: type[msgspec.Struct]) -> list[str]:
    """Types without examples."""
    return [text for each in types for text in section(each)]


def _streams() -> Iterator[str]:
    yield "\n## Streams\n\n| stream | subjects | kept for | at most | duplicates known for |\n"
    yield "|---|---|---|---|---|\n"
    for each in streams.STREAMS:
        source = each.source
        subjects = each.subject or f"`{source.becomes}` out of {source.stream}"  # type: ignore[union-attr]
        shown = subjects if source else f"`{subjects}`"
        hours, gib = each.max_age_secs // _HOUR_SECS, each.max_bytes >> 30
        yield f"| `{each.name}` | {shown} | {hours} h | {gib} GiB |"
        yield f" {streams.DUPLICATES_SECS} s |\n"
    yield "\n| durable consumer | stream | ack wait | unacked at most |\n|---|---|---|---|\n"
    for consumer in _CONSUMERS:
        many = f"{consumer.durable}-<partition>-<token>" if consumer.partitions else ""
        yield f"| `{many or consumer.durable}` | `{consumer.stream}` |"
        yield f" {consumer.ack_wait_secs:g} s | {consumer.max_ack_pending} |\n"


def _dead_letters() -> Iterator[str]:
    yield "\n### Dead letters\n\n`deadletter.<durable>.<tenant>.<agent_id>`: a message that was"
    yield f" delivered {streams.DELIVERIES_MAX} times without success, or that the store refuses"
    yield " for good.\nThe payload is the message's own. One that came too often has headers:"
    yield "\n\n| header | what |\n|---|---|\n"
    for header, what in _DEAD_HEADERS:
        yield f"| `{header}` | {what} |\n"


def _lines() -> Iterator[str]:
    """What the agent prints: its fields have the meaning of the event's."""
    for line, name, cls in (
        (render._ExecLine, "line exec", events.ExecEvent),
        (render._ConnectLine, "line conn", events.ConnectEvent),
    ):
        yield f"\n### {name.removeprefix('line ')}\n\n| field | meaning |\n|---|---|\n"
        yield f"| `type` | `{name.removeprefix('line ')}` |\n"
        for field in line.__struct_fields__:
            own = LINE_FIELDS.get((name, field)) or LINE_FIELDS.get(("", field))
            meaning = (own or meanings(cls)[field]).replace("``", "`")
            yield f"| `{field}` | {meaning} |\n"
        yield example(name)
    for name in ("line alert", "line response", "line status", "line log"):
        yield f"\n### {name.removeprefix('line ')}\n\n{LINE_SECTIONS[name]}\n"
        yield example(name)


def _events() -> Iterator[str]:
    kinds = ", ".join(f"`{name}`" for name in messages.EVENT_TYPES)
    yield f"\n## Events\n\nThe `events` of a batch are of these types: {kinds}.\n"
    for cls in (
        *(events.SeedEvent, events.ForkEvent, events.ExecEvent),
        *(events.ExitEvent, events.OpenEvent, events.ConnectEvent),
        *(events.ListenEvent, events.FloodEvent),
    ):
        yield from section(cls, shown=f"event {cls.__struct_config__.tag}")


def render_document() -> str:
    """The document."""
    parts: list[str] = [HEAD, *_streams(), BATCHES]
    parts += section(messages.Batch, shown="batch")
    parts += sections(messages.Host, messages.Counters, messages.ProbeCounts)
    names = ", ".join(f"`{name}`" for name in PROBES)
    parts.append(f"\nProbes: {names}. Of each, `{COUNTERS[0]} = {' + '.join(COUNTERS[1:])}`.\n")
    parts += sections(messages.Evicted, messages.Gap)
    parts += section(messages.CanonicalBatch, shown="canonical batch")
    parts += [*section(messages.Rejected), *_events(), V1]
    parts += section(messages.Single, shown="single")
    parts += section(messages.CanonicalSingle, shown="canonical single")
    parts += sections(messages.ExecV1, messages.OpenV1, messages.ConnectV1)
    parts += sections(messages.ExitV1, messages.HeartbeatV1)
    parts.append("\n## Alerts\n")
    parts += [*section(messages.Alert, shown="alert"), *section(events.LineageProcess)]
    parts.append("\n## Heartbeats\n")
    parts += [*section(messages.Heartbeat, shown="heartbeat"), *section(messages.Spool)]
    parts.append("\n## What was refused\n")
    parts += [*section(messages.Invalid, shown="invalid"), *_dead_letters(), COMMANDS]
    parts += [LEDGER, *_account(), example("ledger"), LOCAL_HEAD, *_lines(), RECORDINGS]
    parts += [*section(recordings.Header), example("recording")]
    return "".join(parts)


def _account() -> Iterator[str]:
    from services.ledger.balance import Account  # noqa: PLC0415 - the only use

    known = meanings(Account)
    yield "\n| field | meaning |\n|---|---|\n"
    for name in Account.__dataclass_fields__:
        meaning = known.get(name) or LINE_FIELDS[("ledger", name)]
        yield f"| `{name}` | {meaning.replace('``', '`')} |\n"


if __name__ == "__main__":
    sys.stdout.write(render_document())
