"""Streams and durable consumers, as data; `ensure` makes the broker have them.

Every stream refuses what is new when it is full, for what is dropped at the old end is dropped
silently: a refused publish is not acked, so its publisher keeps the message and tells. `make_room`
keeps a stream from filling up with what everybody has read.

No consumer has a limit of deliveries (docs/decisions/0007-five-deliveries.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import structlog

from transport.errors import StreamMismatch, Unreachable
from transport.frames import Refusal
from transport.subjects import ACCEPTED, ALERTS, DEAD_LETTER, INVALID, RAW

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

DELIVERIES_MAX = 5
"""A message that was delivered so often without success goes to the dead letters."""
_HOUR_SECS = 3600
_GIB = 1 << 30
DUPLICATES_SECS = 120
_ANSWER_SECS = 5.0
_FULL_SHARE = 0.8
_REMOVED_SHARE = 0.3
_NOT_READY = 503
_NOT_FOUND = {10014, 10059}
"""JetStream's error codes: no such consumer, no such stream."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream in a file."""

    name: str
    subject: str
    max_age_secs: int
    max_bytes: int
    """When it is created; whoever runs the broker may choose another size later."""
    readers: tuple[str, ...] = ()
    """Durable consumers that must have read a message before room is made of it."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable pull consumer with explicit acks; several processes may share its work."""

    durable: str
    stream: str
    ack_wait_secs: float = 30.0
    max_ack_pending: int = 1000


TELEMETRY_RAW = Stream("TELEMETRY_RAW", f"{RAW}.>", 24 * _HOUR_SECS, 4 * _GIB, ("ingest",))
TELEMETRY_CANONICAL = Stream(
    "TELEMETRY_CANONICAL", f"{ACCEPTED}.>", 24 * _HOUR_SECS, 4 * _GIB, ("telemetry-writer",)
)
ALERT_STREAM = Stream("ALERTS", f"{ALERTS}.>", 168 * _HOUR_SECS, _GIB, ("alert-writer",))
TELEMETRY_INVALID = Stream(
    "TELEMETRY_INVALID", f"{INVALID}.>", 168 * _HOUR_SECS, _GIB, ("invalid-writer",)
)
DEAD_LETTERS = Stream("DEAD_LETTER", f"{DEAD_LETTER}.>", 168 * _HOUR_SECS, _GIB)
STREAMS = (TELEMETRY_RAW, TELEMETRY_CANONICAL, ALERT_STREAM, TELEMETRY_INVALID, DEAD_LETTERS)

INGEST = Consumer("ingest", "TELEMETRY_RAW", max_ack_pending=20_000)
"""So many, because what is over an agent's rate waits as unacked."""
TELEMETRY_WRITER = Consumer("telemetry-writer", "TELEMETRY_CANONICAL")
DETECTION = Consumer("detection", "TELEMETRY_CANONICAL")
ALERT_WRITER = Consumer("alert-writer", "ALERTS")
INVALID_WRITER = Consumer("invalid-writer", "TELEMETRY_INVALID")


_FILLED: Mapping[str, tuple[Stream, ...]] = {
    "ingest": (TELEMETRY_CANONICAL, TELEMETRY_INVALID),
    "telemetry-writer": (TELEMETRY_INVALID,),
    "detection": (ALERT_STREAM,),
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


class Requests(Protocol):
    """What is needed of a session."""

    async def request(self, subject: str, payload: bytes, *, within_secs: float) -> bytes:
        """Ask and wait for the answer."""


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
        await _ensure_consumer(session, consumer)


async def make_room(session: Requests, streams: Iterable[Stream]) -> int:
    """Remove the oldest messages of nearly full streams, if every consumer is done with them.

    Call it every few seconds from a service that publishes into or reads from them. A stream that
    fills up all the same has a consumer that does not keep up, which is logged by name.

    Returns:
        How many were removed.

    Raises:
        Unreachable: no answer.
    """
    removed = 0
    for stream in streams:
        info = await _ask(session, f"STREAM.INFO.{stream.name}")
        state, limit = info["state"], info["config"].get("max_bytes", -1)
        if limit <= 0 or state["bytes"] < _FULL_SHARE * limit:
            continue
        floors = await _ack_floors(session, stream)
        if not floors or not set(stream.readers) <= floors.keys():
            log.warning("stream is nearly full and not read", stream=stream.name)
            continue
        slowest = min(floors, key=floors.__getitem__)
        wanted = state["first_seq"] + max(1, int(state["messages"] * _REMOVED_SHARE))
        until = min(floors[slowest] + 1, wanted)
        if until > state["first_seq"]:
            answer = await _ask(session, f"STREAM.PURGE.{stream.name}", {"seq": until})
            removed += answer["purged"]
        else:
            log.warning(
                "stream is nearly full: a consumer does not keep up",
                stream=stream.name,
                consumer=slowest,
            )
    return removed


async def _ack_floors(session: Requests, stream: Stream) -> dict[str, int]:
    """Up to where each consumer of a stream has acked everything."""
    if not stream.readers:
        return {}
    found: dict[str, int] = {}
    while True:
        body = {"offset": len(found)}
        page = await _ask(session, f"CONSUMER.LIST.{stream.name}", body)
        consumers = page.get("consumers") or []
        found |= {each["name"]: each["ack_floor"]["stream_seq"] for each in consumers}
        if not consumers or len(found) >= page["total"]:
            return found


async def _ensure_stream(session: Requests, stream: Stream, *, replicas: int) -> None:
    fixed = {"storage": "file", "retention": "limits"}
    changeable = {
        "subjects": [stream.subject],
        "discard": "new",
        "max_age": stream.max_age_secs * 10**9,
        "duplicate_window": DUPLICATES_SECS * 10**9,
        "num_replicas": replicas,
    }
    there = await _find(session, f"STREAM.INFO.{stream.name}")
    wanted = {"name": stream.name, **fixed, **changeable}
    where = f"stream {stream.name}"
    if there is None:
        wanted["max_bytes"] = stream.max_bytes
        await _set(session, f"STREAM.CREATE.{stream.name}", wanted, where)
    elif _differences(where, there["config"], fixed, changeable):
        body = {**there["config"], **wanted}
        await _set(session, f"STREAM.UPDATE.{stream.name}", body, where)


async def _ensure_consumer(session: Requests, consumer: Consumer) -> None:
    fixed = {"ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant"}
    changeable = {
        "ack_wait": int(consumer.ack_wait_secs * 1e9),
        "max_deliver": -1,
        "max_ack_pending": consumer.max_ack_pending,
    }
    path = f"{consumer.stream}.{consumer.durable}"
    there = await _find(session, f"CONSUMER.INFO.{path}")
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
    await _set(session, f"CONSUMER.DURABLE.CREATE.{path}", body, where)


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


async def _set(session: Requests, path: str, body: Mapping[str, Any], where: str) -> None:
    answer = await _answer(session, path, body)
    if "error" in answer:
        error = msgspec.convert(answer["error"], Refusal)
        kind = Unreachable if error.code == _NOT_READY else StreamMismatch
        raise kind(f"{where}: the broker refuses it: {error.description}")


async def _find(session: Requests, path: str) -> dict[str, Any] | None:
    answer = await _answer(session, path, None)
    if "error" in answer and answer["error"].get("err_code") in _NOT_FOUND:
        return None
    return _checked(answer, path)


async def _ask(
    session: Requests, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return _checked(await _answer(session, path, body), path)


def _checked(answer: dict[str, Any], path: str) -> dict[str, Any]:
    if "error" in answer:
        error = msgspec.convert(answer["error"], Refusal)
        raise Unreachable(f"JetStream answers {path} with: {error.description}")
    return answer


async def _answer(session: Requests, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    payload = b"" if body is None else msgspec.json.encode(body)
    raw = await session.request(f"$JS.API.{path}", payload, within_secs=_ANSWER_SECS)
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Unreachable(f"JetStream's answer to {path} is not understood: {error}") from error
