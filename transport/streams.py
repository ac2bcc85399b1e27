"""Streams and durable consumers, as data; `ensure` makes the broker have them.

Every stream refuses what is new when it is full, for what is dropped at the old end is dropped
silently: a refused publish is not acked, so its publisher keeps the message and tells. `make_room`
keeps a stream from filling up with what everybody has read.

No consumer has a limit of deliveries (docs/decisions/0007-five-deliveries.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from transport.api import Requests, ask, find, put
from transport.errors import StreamMismatch
from transport.subjects import ACCEPTED, ALERTS, DEAD_LETTER, DETECTION_INPUT, INVALID, RAW

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

DELIVERIES_MAX = 5
"""A message that was delivered so often without success goes to the dead letters."""
_HOUR_SECS = 3600
_GIB = 1 << 30
DUPLICATES_SECS = 120
_FULL_SHARE = 0.8
_REMOVED_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Source:
    """Where a stream has its messages from, and what becomes of their subjects."""

    stream: str
    subject: str
    becomes: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream in a file."""

    name: str
    subject: str
    max_age_secs: int
    max_bytes: int
    """When it is created; whoever runs the broker may choose another size later."""
    readers: tuple[str, ...] = ()
    """Durable consumers that must have read a message before room is made of it. A partition's
    reader is all consumers whose name goes on with its token."""
    source: Source | None = None
    """Whose messages it copies; then nobody publishes into it."""
    subject_max_messages: int = 0
    """Of one subject at most, if not 0: what is beyond is refused, and its publisher keeps it. What
    was read counts too, so `make_room` removes all of it early."""
    message_max_bytes: int = 0
    """Of one message at most, its headers included, if not 0."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable pull consumer with explicit acks; several processes may share its work."""

    durable: str
    stream: str
    ack_wait_secs: float = 30.0
    max_ack_pending: int = 1000
    partitions: int = 0
    """If there are any, it is a consumer for each, made by `transport.partitions`."""


AGENT_MAX_MESSAGES = 2048
RAW_MAX_BYTES = 800 * 1024
"""A message of an agent: what ingest takes, and its headers."""
TELEMETRY_RAW = Stream(
    "TELEMETRY_RAW",
    f"{RAW}.*.*",
    24 * _HOUR_SECS,
    4 * _GIB,
    ("ingest",),
    subject_max_messages=AGENT_MAX_MESSAGES,
    message_max_bytes=RAW_MAX_BYTES,
)
"""One agent can have 1.6 GiB of it, and a tenth of what may be unacked."""
TELEMETRY_CANONICAL = Stream(
    "TELEMETRY_CANONICAL", f"{ACCEPTED}.*.*", 24 * _HOUR_SECS, 4 * _GIB, ("telemetry-writer",)
)
PARTITIONS = 16
"""Of the events, by agent. All workers and the broker must agree on it."""
TELEMETRY_DETECTION = Stream(
    "TELEMETRY_DETECTION",
    "",
    24 * _HOUR_SECS,
    2 * _GIB,
    tuple(f"detection-{partition}" for partition in range(PARTITIONS)),
    Source(
        "TELEMETRY_CANONICAL",
        f"{ACCEPTED}.*.*",
        f"{DETECTION_INPUT}.{{{{partition({PARTITIONS},1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}",
    ),
)
"""Full, it takes no more from its source until there is room, and then goes on where it was."""
AGENT_MAX_ALERTS = 1024
ALERT_MAX_BYTES = 512 * 1024
ALERT_STREAM = Stream(
    "ALERTS",
    f"{ALERTS}.*.*",
    168 * _HOUR_SECS,
    _GIB,
    ("alert-writer",),
    subject_max_messages=AGENT_MAX_ALERTS,
    message_max_bytes=ALERT_MAX_BYTES,
)
"""Of one agent by itself and by workers; those that nobody has read wait here for a week."""
TELEMETRY_INVALID = Stream(
    "TELEMETRY_INVALID", f"{INVALID}.*.*", 168 * _HOUR_SECS, _GIB, ("invalid-writer",)
)
DEAD_LETTERS = Stream("DEAD_LETTER", f"{DEAD_LETTER}.*.*.*", 168 * _HOUR_SECS, _GIB)
STREAMS = (
    TELEMETRY_RAW,
    TELEMETRY_CANONICAL,
    TELEMETRY_DETECTION,
    ALERT_STREAM,
    TELEMETRY_INVALID,
    DEAD_LETTERS,
)

INGEST = Consumer("ingest", "TELEMETRY_RAW", max_ack_pending=20_000)
"""So many, as for alerts, because what is over an agent's rate waits as unacked."""
TELEMETRY_WRITER = Consumer("telemetry-writer", "TELEMETRY_CANONICAL")
DETECTION = Consumer("detection", "TELEMETRY_DETECTION", partitions=PARTITIONS)
ALERT_WRITER = Consumer("alert-writer", "ALERTS", max_ack_pending=20_000)
INVALID_WRITER = Consumer("invalid-writer", "TELEMETRY_INVALID")


_FILLED: Mapping[str, tuple[Stream, ...]] = {
    "ingest": (TELEMETRY_CANONICAL, TELEMETRY_INVALID),
    "telemetry-writer": (TELEMETRY_INVALID,),
    "detection": (TELEMETRY_CANONICAL, ALERT_STREAM, TELEMETRY_INVALID),
    "alert-writer": (TELEMETRY_INVALID,),
}
"""Where the reader of a consumer publishes, beside the dead letters."""


def read_by(consumers: Iterable[Consumer]) -> tuple[Stream, ...]:
    """The streams of these consumers: those whose reader calls `make_room`."""
    names = {consumer.stream for consumer in consumers}
    return tuple(stream for stream in STREAMS if stream.name in names)


def used_by(consumers: Iterable[Consumer]) -> tuple[Stream, ...]:
    """The streams that a process with these consumers reads or fills, and may `ensure`.

    The broker's permissions (``docker/nats/make-config``) allow these to each service.
    """
    consumers = tuple(consumers)
    used = {DEAD_LETTERS, *read_by(consumers)}
    used.update(*(_FILLED.get(consumer.durable, ()) for consumer in consumers))
    return tuple(stream for stream in STREAMS if stream in used)


async def ensure(
    session: Requests,
    *,
    streams: Iterable[Stream] = STREAMS,
    consumers: Iterable[Consumer] = (),
    replicas: int = 1,
) -> None:
    """Create what is missing, bring up to date what differs and can be changed.

    A consumer that nobody reads keeps `make_room` from making room: name only those that run.

    Raises:
        StreamMismatch: something is there with a setting that cannot be changed.
        Unreachable: no answer; some of it may have been done. Safe to call again.
    """
    for stream in streams:
        await _ensure_stream(session, stream, replicas=replicas)
    for consumer in consumers:
        if not consumer.partitions:
            await _ensure_consumer(session, consumer)


async def make_room(session: Requests, streams: Iterable[Stream]) -> int:
    """Remove the oldest messages of nearly full streams, if every consumer is done with them.

    Of a stream in which each subject has a share, all that every consumer is done with.

    Call it every few seconds from a service that publishes into or reads from them. A stream that
    fills up all the same has a consumer that does not keep up, which is logged by name.

    Returns:
        How many were removed.

    Raises:
        Unreachable: no answer.
    """
    removed = 0
    for stream in streams:
        info = await ask(session, f"STREAM.INFO.{stream.name}")
        state, limit = info["state"], info["config"].get("max_bytes", -1)
        is_full = 0 < _FULL_SHARE * limit <= state["bytes"]
        # No subject can have more messages than there are.
        is_shared = 0 < stream.subject_max_messages <= 2 * state["messages"]
        if not is_full and not is_shared:
            continue
        floors = await _ack_floors(session, stream, last_seq=state["last_seq"])
        if not floors or not set(stream.readers) <= floors.keys():
            if not is_full:
                continue
            log.warning("stream is nearly full and not read", stream=stream.name)
            continue
        slowest = min(floors, key=floors.__getitem__)
        share = 1.0 if is_shared else _REMOVED_SHARE
        wanted = state["first_seq"] + max(1, int(state["messages"] * share))
        until = min(floors[slowest] + 1, wanted)
        if until > state["first_seq"]:
            answer = await ask(session, f"STREAM.PURGE.{stream.name}", {"seq": until})
            removed += answer["purged"]
        elif is_full:
            log.warning(
                "stream is nearly full: a consumer does not keep up",
                stream=stream.name,
                consumer=slowest,
            )
    return removed


async def _ack_floors(session: Requests, stream: Stream, *, last_seq: int) -> dict[str, int]:
    """Up to where each reader of a stream, and each stream that copies it, is done with it.

    ``last_seq`` was the stream's last message before this was called.
    """
    if not stream.readers:
        return {}
    floors: dict[str, int] = {}
    for each in await consumers_of(session, stream.name):
        # The floor of one that reads a part stays behind the last message of another part.
        part = bool(each["config"].get("filter_subject"))
        idle = part and not each["num_pending"] and not each["num_ack_pending"]
        floor = last_seq if idle else each["ack_floor"]["stream_seq"]
        name = next((own for own in stream.readers if _is_reader(each["name"], own)), each["name"])
        floors[name] = max(floor, floors.get(name, 0))
    for copy in STREAMS:
        if copy.source is not None and copy.source.stream == stream.name:
            floors |= await _copied(session, copy, last_seq=last_seq)
    return floors


def _is_reader(name: str, reader: str) -> bool:
    return name == reader or name.startswith(f"{reader}-")


async def _copied(session: Requests, copy: Stream, *, last_seq: int) -> dict[str, int]:
    """Up to where a stream has copied its source; nothing if there is no such stream."""
    info = await find(session, f"STREAM.INFO.{copy.name}")
    if info is None:
        return {}
    for source in info.get("sources") or []:
        if "seq" in source:  # of later servers
            return {copy.name: source["seq"]}
        if source.get("active", -1) >= 0:
            return {copy.name: last_seq - source["lag"]}
    return {copy.name: 0}


async def consumers_of(session: Requests, stream: str) -> list[dict[str, Any]]:
    """What the broker says of every consumer of a stream.

    Raises:
        Unreachable: no answer.
    """
    found: list[dict[str, Any]] = []
    while True:
        page = await ask(session, f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        consumers = page.get("consumers") or []
        found += consumers
        if not consumers or len(found) >= page["total"]:
            return found


async def waits(session: Requests, consumer: Consumer) -> bool:
    """Whether messages wait for a consumer that nobody has taken.

    Raises:
        Unreachable: no answer.
    """
    info = await find(session, f"CONSUMER.INFO.{consumer.stream}.{consumer.durable}")
    return info is not None and info["num_pending"] > 0


async def _ensure_stream(session: Requests, stream: Stream, *, replicas: int) -> None:
    fixed = {"storage": "file", "retention": "limits", **_origin(stream)}
    changeable: dict[str, Any] = {
        "discard": "new",
        "max_age": stream.max_age_secs * 10**9,
        "duplicate_window": DUPLICATES_SECS * 10**9,
        "num_replicas": replicas,
    }
    if stream.source is None:
        changeable["subjects"] = [stream.subject]
    if stream.message_max_bytes:
        changeable["max_msg_size"] = stream.message_max_bytes
    there = await find(session, f"STREAM.INFO.{stream.name}")
    # In a stream that has more the broker would remove them: it comes when they were read.
    if stream.subject_max_messages and (
        there is None or there["state"]["messages"] <= stream.subject_max_messages
    ):
        changeable["max_msgs_per_subject"] = stream.subject_max_messages
        changeable["discard_new_per_subject"] = True
    wanted = {"name": stream.name, **fixed, **changeable}
    where = f"stream {stream.name}"
    if there is None:
        wanted["max_bytes"] = stream.max_bytes
        await put(session, f"STREAM.CREATE.{stream.name}", wanted, where)
    elif _differences(where, there["config"], fixed, changeable):
        body = {**there["config"], **wanted}
        await put(session, f"STREAM.UPDATE.{stream.name}", body, where)


def _origin(stream: Stream) -> dict[str, Any]:
    """Where its messages come from."""
    source = stream.source
    if source is None:
        return {}
    change = {"src": source.subject, "dest": source.becomes}
    return {"sources": [{"name": source.stream, "subject_transforms": [change]}]}


async def _ensure_consumer(session: Requests, consumer: Consumer) -> None:
    fixed = {"ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant"}
    changeable = {
        "ack_wait": int(consumer.ack_wait_secs * 1e9),
        "max_deliver": -1,
        "max_ack_pending": consumer.max_ack_pending,
    }
    path = f"{consumer.stream}.{consumer.durable}"
    there = await find(session, f"CONSUMER.INFO.{path}")
    where = f"consumer {consumer.durable} of stream {consumer.stream}"
    wanted: dict[str, Any] = {"durable_name": consumer.durable, **fixed, **changeable}
    if there is not None:
        config = there["config"]
        for key in ("deliver_subject", "filter_subject", "filter_subjects"):
            if config.get(key):
                raise StreamMismatch(_mismatch(where, key, config[key], "none"))
        if not _differences(where, config, fixed, changeable):
            return
        wanted = {**config, **wanted}
    body = {"stream_name": consumer.stream, "config": wanted}
    # This subject, unlike CONSUMER.CREATE of later servers, creates and updates alike.
    await put(session, f"CONSUMER.DURABLE.CREATE.{path}", body, where)


def _differences(
    where: str, found: Mapping[str, Any], fixed: Mapping[str, Any], changeable: Mapping[str, Any]
) -> list[str]:
    for key, value in fixed.items():
        if found.get(key) != value:
            raise StreamMismatch(_mismatch(where, key, found.get(key), value))
    return [key for key, value in changeable.items() if found.get(key) != value]


def _mismatch(where: str, key: str, found: Any, wanted: Any) -> str:
    return (
        f"{where} exists with {key} = {found!r}, which cannot be changed, and "
        f"{wanted!r} is needed: remove it (its messages go too), or use another broker"
    )
