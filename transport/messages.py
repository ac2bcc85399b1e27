"""What travels between Lavender's processes: the payloads of every subject, as msgspec structs.

Events are those of `actors.detection.events`; a message wraps them. All integers are bounded, all
texts and lists have a largest size, so that a decoded message is safe to store. ``schema_version``
2 is a batch of an agent's events; 1 is the one event per message of the first Lavender.

Raises (every decoder): `msgspec.MsgspecError` (its subclass `ValidationError` names the field).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, TypeAlias, get_args
from uuid import UUID

import msgspec
from msgspec import Meta

from actors.detection.events import U32, AnyEvent, Level, LineageProcess, Ns, Path
from transport.subjects import TOKEN, TOKEN_MAX

I63_MAX = (1 << 63) - 1
EVENTS_MAX = 500
"""Events of one batch at most."""
LIST_MAX = 1024
"""Evictions, or gaps, that one batch tells of at most."""
PROBES_MAX = 16
"""Probes that one batch counts at most."""
BATCH_MAX_BYTES = 512 * 1024
"""A batch is closed before its payload grows beyond this; brokers refuse 1 MiB by default."""

Count = Annotated[int, Meta(ge=0, le=I63_MAX)]
UnixMs = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
"""Until the end of the year 9999, where calendars end."""
Token = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX, pattern=rf"^{TOKEN}\Z")]
"""One token of a subject, as `transport.subjects` has it."""
Epoch = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
"""One life of an agent: 64 random bits, in hexadecimal."""
BatchId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}-[0-9]{1,18}\Z")]
"""``<epoch>-<n>``, the n-th batch of that life, counted from 0."""
Text = Annotated[str, Meta(max_length=65_536)]
Short = Annotated[str, Meta(max_length=1024)]

Event: TypeAlias = AnyEvent
"""What a batch holds; the tag is ``type``."""

EventType: TypeAlias = Literal["seed", "fork", "exec", "exit", "open", "connect", "listen", "flood"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)


class Host(msgspec.Struct, frozen=True):
    """The machine an agent runs on."""

    hostname: Annotated[str, Meta(max_length=255)]
    """Its name, as the machine says it."""
    boot_id: Annotated[str, Meta(max_length=64)] = ""
    """Which boot: with pid and start time, the identity of a process."""
    boot_unix_ns: Count = 0
    """Unix time of boot-time zero: an event happened at ``boot_unix_ns + time_ns``."""


class ProbeCounts(msgspec.Struct, frozen=True):
    """One probe's counters since it was loaded; ``seen`` is the sum of the others."""

    seen: Count = 0
    """Events of this kind that happened."""
    delivered: Count = 0
    """Of these, written into the ring."""
    filtered: Count = 0
    """Nobody's business: the agent's own, ignored programs, opens that nobody wants."""
    suppressed: Count = 0
    """Repeats of an open within ``agent.open_repeat_secs``."""
    throttled: Count = 0
    """Calls of a process or user that floods: beyond what each may put into the rings."""
    lost: Count = 0
    """The ring was full."""


class Evicted(msgspec.Struct, frozen=True):
    """Events that left the spool without having been sent: a run of sequence numbers."""

    epoch: Epoch
    """Whose numbers they are."""
    first_seq: Count
    """The first of the run."""
    last_seq: Count
    """The last of the run."""
    reason: Annotated[str, Meta(max_length=64)]
    """``bytes`` or ``age``: a bound of the spool; ``corrupt``: damage; ``refused``: the broker can
    never take it."""


class Gap(msgspec.Struct, frozen=True):
    """A span in which this agent cannot vouch for having seen everything."""

    from_unix_ms: UnixMs
    """When it begins; 0 if nobody knows."""
    to_unix_ms: UnixMs
    """When it ends."""
    reason: Annotated[str, Meta(max_length=64)]
    """``lost_in_kernel_<probe>``, ``throttled_in_kernel_<probe>``, ``dropped_by_agent``,
    ``partial_matches_cut`` and ``processes_forgotten`` (detection had no room),
    ``spool_corrupt``, ``not_watching``; behind the last there may be a colon and why, in a few
    words."""
    events: Count | None = None
    """How many are missing, where that is known."""


class Counters(msgspec.Struct, frozen=True):
    """What an agent can prove at the end of a batch; all counts only grow.

    For one life of the agent ``read + seeds = spooled + unpublished + dropped``, and ``spooled``
    events have the sequence numbers 0 to ``spooled - 1``.
    """

    load_id: Epoch = "0" * 16
    """One life of the probes: their counters began at 0 then. Outlives a crash of the agent."""
    probes: Annotated[
        dict[Annotated[str, Meta(max_length=32)], ProbeCounts], Meta(max_length=PROBES_MAX)
    ] = {}
    """By name of the probe: ``fork``, ``exec``, ``exit``, ``open``, ``connect`` …"""
    read: Count = 0
    """Events taken from the rings."""
    seeds: Count = 0
    """Events of type ``seed``, which come from ``/proc`` before all others."""
    unpublished: Count = 0
    """Events that ``[publish]`` does not want."""
    dropped: Count = 0
    """Events lost inside the agent: a full mailbox, a crashed actor, a spool that failed."""
    spooled: Count = 0
    """Events written to the spool, this batch included."""
    alerts: Count = 0
    """Alerts raised; one that is told again with a greater count is the same alert."""
    alerts_dropped: Count = 0
    """Alerts lost inside the agent, or evicted from the spool."""
    evicted: Annotated[list[Evicted], Meta(max_length=LIST_MAX)] = []
    """Evictions nobody has been told of yet, perhaps told again."""
    gaps: Annotated[list[Gap], Meta(max_length=LIST_MAX)] = []
    """Gaps since the batch before."""


class Batch(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema_version", tag=2):
    """``telemetry.raw.<tenant>.<agent_id>``: up to `EVENTS_MAX` events of one agent.

    ``events[i]`` has the sequence number ``first_seq + i``. A batch without events carries counters
    alone; its ``last_seq`` is ``first_seq - 1``.
    """

    batch_id: BatchId
    """Unique among the agent's batches."""
    agent_id: Token
    """The agent; must be that of the subject."""
    tenant_id: Token
    """The tenant; must be that of the subject."""
    host: Host
    """The agent's machine."""
    epoch: Epoch
    """The life of the agent that made it."""
    observed_at_unix_ms: UnixMs
    """When the batch was closed, by the agent's clock."""
    first_seq: Count
    """Sequence number of its first event."""
    last_seq: Annotated[int, Meta(ge=-1, le=I63_MAX)]
    """Sequence number of its last event."""
    counters: Counters
    """What the agent can prove at its end."""
    events: Annotated[list[Event], Meta(max_length=EVENTS_MAX)]
    """The events, oldest first."""


class Rejected(msgspec.Struct, frozen=True):
    """An event that ingest took out of a batch."""

    seq: Count
    """Its sequence number."""
    reason: Short
    """What is wrong with it, in words."""


class CanonicalBatch(Batch, frozen=True, kw_only=True, tag=2):
    """``telemetry.accepted.<tenant>.<agent_id>``: a batch that ingest vouches for.

    Its events are those of the batch in their order, without the rejected ones.
    """

    received_at_unix_ms: UnixMs
    """When ingest took it, by ingest's clock."""
    rejected: Annotated[list[Rejected], Meta(max_length=EVENTS_MAX)] = []
    """Events that were taken out, with their numbers."""

    def sequence_numbers(self) -> list[int]:
        """Sequence number of each event."""
        gone = {each.seq for each in self.rejected}
        return [seq for seq in range(self.first_seq, self.last_seq + 1) if seq not in gone]


class ExecV1(msgspec.Struct, frozen=True, tag_field="type", tag="exec"):
    """Version 1 of an exec."""

    pid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    """The process."""
    ppid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    """Its parent."""
    uid: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
    """Its user."""
    comm: Short
    """Its name."""
    filename: Text
    """The program."""
    argv: Annotated[tuple[Text, ...], Meta(max_length=4096)]
    """Its arguments."""


class OpenV1(msgspec.Struct, frozen=True, tag_field="type", tag="open"):
    """Version 1 of an open."""

    pid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    """The process."""
    comm: Short
    """Its name."""
    filename: Text
    """The file."""


class ConnectV1(msgspec.Struct, frozen=True, tag_field="type", tag="connect"):
    """Version 1 of a connect."""

    pid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    """The process."""
    uid: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
    """Its user."""
    comm: Short
    """Its name."""
    dest_ip: Annotated[str, Meta(max_length=64)]
    """Destination address."""
    dest_port: Annotated[int, Meta(ge=0, le=65535)]
    """Destination port."""
    af: Annotated[int, Meta(ge=0, le=65535)]
    """Address family: 2 IPv4, 10 IPv6."""


class ExitV1(msgspec.Struct, frozen=True, tag_field="type", tag="exit"):
    """Version 1 of an exit."""

    pid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    """The process."""


class HeartbeatV1(msgspec.Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """Version 1 of a heartbeat; nothing of it is stored."""

    status: Short
    """How the agent is."""


EventV1: TypeAlias = ExecV1 | OpenV1 | ConnectV1 | ExitV1 | HeartbeatV1


class Single(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema_version", tag=1):
    """``telemetry.raw.<tenant>.<agent_id>``, version 1: one event."""

    event_id: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~]+\Z")]
    """The agent's id of the event, which never changes; also the message id."""
    agent_id: Token
    """The agent; must be that of the subject."""
    tenant_id: Token
    """The tenant; must be that of the subject."""
    host: Host
    """The agent's machine."""
    observed_at_unix_ms: UnixMs
    """When it was seen, by the agent's clock."""
    event: EventV1
    """The event."""


class CanonicalSingle(Single, frozen=True, kw_only=True, tag=1):
    """``telemetry.accepted.<tenant>.<agent_id>``, version 1."""

    received_at_unix_ms: UnixMs
    """When ingest took it, by ingest's clock."""


class Invalid(msgspec.Struct, frozen=True, kw_only=True):
    """``telemetry.invalid.<tenant>.<agent_id>``: a message that was refused, and why.

    Tenant and agent are those of the subject it came on; what the payload claims is not believed.
    """

    schema_version: Literal[2] = 2
    """The version of this form."""
    invalid_id: Short
    """``<stream>-<stream sequence>``: the same message is refused under the same id."""
    tenant_id: Token
    """The tenant of the subject."""
    agent_id: Token
    """The agent of the subject."""
    reason: Short
    """One of a few words, for counting."""
    detail: Text
    """What exactly, for people."""
    size_bytes: Count
    """How large the refused payload was."""
    received_at_unix_ms: UnixMs
    """When it was refused."""
    payload: Text
    """The beginning of what came, as text."""


Evidence: TypeAlias = Literal["complete"] | list[Gap]
Severity: TypeAlias = Literal["INFO", "WARNING", "HIGH", "CRITICAL"]
"""How much the score of the process makes of it."""
SEVERITIES: tuple[Severity, ...] = ("INFO", "WARNING", "HIGH", "CRITICAL")


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """``alerts.<tenant>.<agent_id>``: a rule matched."""

    schema_version: Literal[2] = 2
    """The version of this form."""
    alert_id: Annotated[str, Meta(pattern=r"^[0-9a-f-]{36}\Z")]
    """UUIDv5 of event id and rule label; repeats in one lineage keep the first one's."""
    tenant_id: Token
    """The tenant; must be that of the subject."""
    agent_id: Token
    """The agent; must be that of the subject."""
    hostname: Annotated[str, Meta(max_length=255)]
    """Name of the machine."""
    rule: Short
    """The rule's label, as people read it."""
    severity: Severity
    """What the score of the process makes of it."""
    detail: Text
    """What happened, one printable sentence."""
    event_type: Annotated[str, Meta(max_length=32)]
    """Of the deciding event: ``exec``, ``open``, ``connect`` or ``flood``."""
    event_pid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    """The process it is about."""
    event_comm: Short
    """Its name."""
    created_at_unix_ms: UnixMs
    """When it was raised; by a worker, the time of the event."""
    observed_at_unix_ms: UnixMs
    """When the deciding event happened, by the agent's clock."""
    received_at_unix_ms: UnixMs = 0
    """0 until the alert writer stamps it."""
    event_id: Annotated[str, Meta(max_length=128, pattern=r"^[!-~]*\Z")] = ""
    """``<epoch>-<seq>`` of the deciding event; empty if that is not published."""
    epoch: Epoch = "0" * 16
    """The life of the agent whose event decided."""
    rule_id: Short = ""
    """The rule's id."""
    techniques: Annotated[tuple[Short, ...], Meta(max_length=64)] = ()
    """Of MITRE ATT&CK, as the rule has them."""
    ancestry: Text = ""
    """The lineage as people read it, oldest first."""
    score: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    """Of the process, with this rule: the sum of the four below."""
    base_score: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    """Points of the rules seen on it."""
    lineage_bonus: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    """5 for each ancestor beyond the first, 20 at most."""
    rarity_bonus: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    """25, 15 or 8 while parent and child are a new pair on this host."""
    sequence_bonus: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    """20 if a sequence was completed."""
    evidence: Evidence = "complete"
    """Whether everything in the window before it was seen; else where it was not."""
    level: Level = "medium"
    """How much the rule's author makes of it."""
    author: Short = ""
    """Who wrote the rule."""
    references: Annotated[tuple[Short, ...], Meta(max_length=64)] = ()
    """What the rule's author points to."""
    boot_id: Annotated[str, Meta(max_length=64)] = ""
    """Which boot of the machine."""
    lineage: Short = ""
    """``<pid>-<start_ns>`` of the root of the lineage it belongs to; empty if unknown."""
    processes: Annotated[tuple[LineageProcess, ...], Meta(max_length=64)] = ()
    """The lineage down to the process it is about, oldest first."""
    count: Annotated[int, Meta(ge=1, le=1 << 31)] = 1
    """How often this rule has fired in this lineage so far."""
    source: Literal["agent", "worker"] = "agent"
    """Whose engine raised it."""
    exe: Path = ""
    """The program's file; empty when unknown."""
    uid: U32 = 0
    """User of the process."""
    start_ns: Ns = 0
    """Start time of the process, boot nanoseconds; with ``event_pid`` its identity."""
    targets: Annotated[tuple[Short, ...], Meta(max_length=16)] = ()
    """The distinct files, addresses or programs that the rule matched in this lineage, the newest
    last."""


class Spool(msgspec.Struct, frozen=True):
    """How full an agent's spool is."""

    batches: Count = 0
    """Messages that wait, alerts too."""
    bytes: Count = 0
    """Their size, each with an overhead of 512 bytes."""
    oldest_age_secs: float = 0.0
    """How long the oldest of them has waited."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """``heartbeat.<tenant>.<agent_id>`` on core NATS; nothing of it is stored."""

    schema_version: Literal[2] = 2
    """The version of this form."""
    agent_id: Token
    """The agent."""
    tenant_id: Token
    """Its tenant."""
    hostname: Annotated[str, Meta(max_length=255)]
    """Name of the machine."""
    version: Short
    """Of Lavender."""
    policy_version: Short
    """Digest of the policy in force: ``[filters]``, ``[response]`` and the rules."""
    sent_at_unix_ms: UnixMs
    """When, by the agent's clock."""
    uptime_secs: float
    """Since the agent started."""
    epoch: Epoch
    """Which life of the agent."""
    counters: Counters
    """As of now; without evictions and gaps, which batches carry."""
    spool: Spool
    """How full the spool is."""
    status: dict[str, Any] = {}
    """The agent's whole status record."""


ALERT_NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
"""NAMESPACE_OID of RFC 4122, of which alert ids are made."""
_NAMESPACE = ALERT_NAMESPACE.bytes


def alert_id(event_id: str, rule: str) -> str:
    """UUIDv5 of event and rule label: the same event and rule always give the same id.

    As `uuid.uuid5` makes it, in a quarter of the time.
    """
    name = f"{event_id}/{rule}".encode()
    digest = bytearray(hashlib.sha1(_NAMESPACE + name, usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def message_id(tenant_id: str, agent_id: str, payload: bytes) -> str:
    """Message id to publish an agent's message under.

    Streams are shared, and whoever knows an id can take its place: so it names whose message it is,
    and comes of what only its sender knows before it is sent. The same bytes have the same id.
    """
    digest = hashlib.blake2b(payload, digest_size=16).hexdigest()
    return f"{tenant_id}.{agent_id}.{digest}"


def event_id(epoch: str, seq: int) -> str:
    """Id of an event of a batch."""
    return f"{epoch}-{seq}"


encode = msgspec.json.Encoder().encode
