"""Validation: what came on a subject becomes a canonical message, or is refused with a reason.

Pure. What a payload claims is checked against the subject, which the broker vouches for. One bad
event in a batch is taken out with its reason; the others go on under their own sequence numbers.

Limits: times are not judged, for clocks are wrong often enough; the stamp of reception is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from transport.messages import (
    EVENTS_MAX,
    Batch,
    CanonicalBatch,
    CanonicalSingle,
    Event,
    Rejected,
    Single,
)
from transport.subjects import Address

SIZE_MAX_BYTES = 768 * 1024
"""Leaves room for what ingest adds: the broker takes 1 MiB."""
CANONICAL_MAX_BYTES = 1008 * 1024
"""Of what ingest makes of it, with all defaults written out and the rejected events' reasons."""
_DETAIL_MAX = 500
_REASON_MAX = 200
# A NUL can stand in JSON only like this. The text `\u0000` itself looks alike with its backslash
# escaped, so a hit is only a reason to look closer.
_NUL = b"\\u0000"
_QUOTED = re.compile(r"Invalid value '.*'(?= - at `)", re.DOTALL)


class _Envelope(Batch, frozen=True, kw_only=True, tag=2):
    """A batch whose events are not looked into yet."""

    events: list[msgspec.Raw]  # type: ignore[assignment]  # the same JSON, decoded one by one


_Undecodable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_decode = msgspec.json.Decoder(Batch | Single).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_event = msgspec.json.Decoder(Event).decode
_BATCH_FIELDS = Batch.__struct_fields__
_SINGLE_FIELDS = Single.__struct_fields__


@dataclass(frozen=True, slots=True)
class Refused:
    """A message of which nothing can be used."""

    reason: str
    """One of a few words, for counting."""
    detail: str
    """What exactly, for people."""


Canonical: TypeAlias = CanonicalBatch | CanonicalSingle


def validate(payload: bytes, address: Address, *, received_at_unix_ms: int) -> Canonical | Refused:
    """The canonical form of a message, or why there is none.

    Args:
        payload: what came.
        address: tenant and agent of the subject it came on.
        received_at_unix_ms: the stamp.
    """
    if len(payload) > SIZE_MAX_BYTES:
        return Refused("too_large", f"{len(payload)} bytes; {SIZE_MAX_BYTES} are allowed")
    rejected: list[Rejected] = []
    try:
        message: Batch | Single = _decode(payload)
    except _Undecodable as error:
        salvaged = _salvage(payload, why=str(error))
        if isinstance(salvaged, Refused):
            return salvaged
        message, rejected = salvaged
    else:
        if _NUL in payload:
            cleaned = _without_nul(message)
            if isinstance(cleaned, Refused):
                return cleaned
            message, rejected = cleaned
    refusal = _misfit(message, address, events=_length(message) + len(rejected))
    if refusal is not None:
        return refusal
    if isinstance(message, Single):
        values = {field: getattr(message, field) for field in _SINGLE_FIELDS}
        return CanonicalSingle(**values, received_at_unix_ms=received_at_unix_ms)
    values = {field: getattr(message, field) for field in _BATCH_FIELDS}
    return CanonicalBatch(**values, received_at_unix_ms=received_at_unix_ms, rejected=rejected)


def _length(message: Batch | Single) -> int:
    return len(message.events) if isinstance(message, Batch) else 1


def _misfit(message: Batch | Single, address: Address, *, events: int) -> Refused | None:
    """What a well-formed message gets wrong."""
    if (message.tenant_id, message.agent_id) != address:
        claimed = f"{message.tenant_id}.{message.agent_id}"
        return Refused(
            "wrong_subject",
            f"claims to be {claimed} on a subject of {'.'.join(address)}"[:_DETAIL_MAX],
        )
    if isinstance(message, Single):
        return None
    if message.batch_id.partition("-")[0] != message.epoch:
        return Refused("bad_batch_id", f"{message.batch_id} is no batch of epoch {message.epoch}")
    if message.last_seq - message.first_seq + 1 != events:
        claimed = f"{message.first_seq} to {message.last_seq}"
        return Refused("bad_sequence", f"claims events {claimed} and has {events}")
    for run in message.counters.evicted:
        if run.first_seq > run.last_seq:
            claimed = f"{run.first_seq} to {run.last_seq}"
            return Refused("bad_eviction", f"says that events {claimed} were evicted")
    return None


def _salvage(payload: bytes, *, why: str) -> tuple[Batch, list[Rejected]] | Refused:
    """What is good of a batch that did not decode as a whole."""
    try:
        envelope = _decode_envelope(payload)
    except _Undecodable as error:
        # The first error names the field in the version the message claims to be.
        return Refused("invalid", (why or str(error))[:_DETAIL_MAX])
    if len(envelope.events) > EVENTS_MAX:
        return Refused("too_many_events", f"{len(envelope.events)}; {EVENTS_MAX} are allowed")
    events: list[Event] = []
    rejected = []
    for seq, raw in enumerate(envelope.events, envelope.first_seq):
        try:
            event = _decode_event(raw)
        except _Undecodable as error:
            rejected.append(Rejected(seq, _reason(error)))
            continue
        if _holds_nul(event):
            rejected.append(Rejected(seq, "nul_in_text"))
        else:
            events.append(event)
    if _holds_nul(envelope.host) or _holds_nul(envelope.counters):
        return Refused("nul_in_text", "a text holds U+0000")
    values = {field: getattr(envelope, field) for field in _BATCH_FIELDS}
    return Batch(**{**values, "events": events}), rejected


def _reason(error: Exception) -> str:
    """What is wrong, without what the sender wrote there: reasons are counted by their text."""
    return _QUOTED.sub("Invalid value", str(error), count=1)[:_REASON_MAX]


def _without_nul(message: Batch | Single) -> tuple[Batch | Single, list[Rejected]] | Refused:
    if isinstance(message, Single):
        if _holds_nul(message):
            return Refused("nul_in_text", "a text holds U+0000")
        return message, []
    if _holds_nul(message.host) or _holds_nul(message.counters):
        return Refused("nul_in_text", "a text holds U+0000")
    events = []
    rejected = []
    for seq, event in enumerate(message.events, message.first_seq):
        if _holds_nul(event):
            rejected.append(Rejected(seq, "nul_in_text"))
        else:
            events.append(event)
    return msgspec.structs.replace(message, events=events), rejected


def _holds_nul(value: Any) -> bool:
    """Whether any text in it holds a NUL, which no store takes."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, msgspec.Struct):
        return any(_holds_nul(getattr(value, field)) for field in value.__struct_fields__)
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(each) for key, each in value.items())
    return isinstance(value, list | tuple) and any(map(_holds_nul, value))
