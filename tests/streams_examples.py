"""The examples of docs/EVENT_STREAMS_AND_INTERFACES.md: made of the types, read by the decoders."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from actors.agent import render
from actors.agent.messages import Response
from actors.alerting import Firsts, Origin, alert_message
from actors.detection import alerts
from actors.detection.engine import Engine
from actors.detection.events import (
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    FloodEvent,
    ForkEvent,
    LineageProcess,
    ListenEvent,
    OpenEvent,
    SeedEvent,
)
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.recordings import FORMAT, Header, Recording
from actors.runtime.statistics import ActorStatistics
from services.ingest.validate import validate
from services.ledger.balance import Account
from services.ledger.render import to_json
from services.refusals import refusal
from transport import messages
from transport.deliveries import Delivery
from transport.messages import Counters, Host, ProbeCounts, encode
from transport.subjects import Address

ADDRESS = Address("acme", "web-1")
EPOCH = "6a083b4111b8898d"
LOAD = "9f4c2a7710be53d1"
BOOT_NS = 1_795_500_000_000_000_000
BOOT_ID = "0e6b6c2e-57a4-4d0c-9a43-6a0b8f0f5c11"
HOST = Host("web-1.example.org", BOOT_ID, BOOT_NS)
AT_NS = 81_827_000_000_000
NOW_MS = (BOOT_NS + AT_NS) // 10**6 + 50
_SHELL: dict[str, Any] = {"pid": 25_542, "start_ns": 81_820_110_000_000}
_CAT: dict[str, Any] = {"pid": 25_597, "start_ns": AT_NS}

SEED = SeedEvent(
    time_ns=81_000_000_000_000,
    **_SHELL,
    ppid=811,
    parent_start_ns=990_000_000,
    uid=1000,
    comm="bash",
    exe="/usr/bin/bash",
    system_exe=True,
    argv=("-bash",),
)
FORK = ForkEvent(
    time_ns=AT_NS,
    **_CAT,
    ppid=_SHELL["pid"],
    parent_start_ns=_SHELL["start_ns"],
    uid=1000,
    comm="bash",
)
EXEC = ExecEvent(
    time_ns=AT_NS + 400_000,
    **_CAT,
    ppid=_SHELL["pid"],
    parent_start_ns=_SHELL["start_ns"],
    uid=1000,
    login_uid=1000,
    cgroup_id=6521,
    comm="cat",
    filename="/usr/bin/cat",
    exe="/usr/bin/cat",
    system_exe=True,
    argv=("cat", "/home/ann/.ssh/id_rsa"),
    argv_cut=False,
    cwd="/home/ann",
    user="ann",
    error=0,
    ancestry="systemd=>sshd=>bash=>cat",
    stdio=("tty", "tty", "tty"),
)
OPEN = OpenEvent(
    time_ns=AT_NS + 900_000,
    **_CAT,
    uid=1000,
    comm="cat",
    filename="/home/ann/.ssh/id_rsa",
    resolved=True,
    flags=0,
    error=0,
)
CONNECT = ConnectEvent(
    time_ns=AT_NS + 1_500_000,
    **_SHELL,
    uid=1000,
    user="ann",
    comm="bash",
    af=2,
    dest_ip="203.0.113.9",
    dest_port=4444,
    path="",
    error=111,
    ancestry="systemd=>sshd=>bash",
)
EXIT = ExitEvent(time_ns=AT_NS + 2_000_000, **_CAT, exit_code=0, signal=0)
LISTEN = ListenEvent(
    time_ns=AT_NS + 1_600_000,
    **_SHELL,
    uid=1000,
    user="ann",
    comm="nc",
    af=2,
    ip="0.0.0.0",  # noqa: S104 - a value, nothing binds
    port=4444,
    socket=191_204,
)
FLOOD = FloodEvent(
    time_ns=AT_NS + 1_700_000,
    **_SHELL,
    uid=1000,
    user="ann",
    comm="flood",
    probe="exec",
    failed=True,
    throttled=344_112,
    lost=0,
    span_ns=1_000_000_000,
)
EVENTS = (SEED, FORK, EXEC, EXIT, OPEN, CONNECT, LISTEN, FLOOD)
COUNTERS = Counters(
    load_id=LOAD,
    probes={"exec": ProbeCounts(seen=1204, delivered=1201, filtered=3)},
    read=1201,
    seeds=95,
    spooled=1296,
    alerts=2,
)
BATCH = messages.Batch(
    batch_id=f"{EPOCH}-20",
    agent_id=ADDRESS.agent_id,
    tenant_id=ADDRESS.tenant_id,
    host=HOST,
    epoch=EPOCH,
    observed_at_unix_ms=NOW_MS,
    first_seq=1293,
    last_seq=1295,
    counters=COUNTERS,
    events=[FORK, EXEC, OPEN],
)
SINGLE = messages.Single(
    event_id="0a1b2c3d-1",
    agent_id=ADDRESS.agent_id,
    tenant_id=ADDRESS.tenant_id,
    host=Host(HOST.hostname),
    observed_at_unix_ms=NOW_MS,
    event=messages.OpenV1(25_597, "cat", "/etc/shadow"),
)
ALERT = alerts.Alert(
    time_ns=OPEN.time_ns,
    pid=OPEN.pid,
    start_ns=OPEN.start_ns,
    uid=1000,
    comm="cat",
    exe="/usr/bin/cat",
    system_exe=True,
    rule_id="sensitive-file-read",
    rule="T1003 [Sensitive file read]",
    techniques=("T1003", "T1552"),
    detail="/usr/bin/cat opened /home/ann/.ssh/id_rsa for reading",
    ancestry=EXEC.ancestry,
    score=75,
    severity="WARNING",
    base_score=35,
    lineage_bonus=15,
    rarity_bonus=25,
    sequence_bonus=0,
    event="open",
    level="high",
    author="Lavender",
    lineage=(_SHELL["pid"], _SHELL["start_ns"]),
    window_secs=30,
    processes=(
        LineageProcess(_SHELL["pid"], _SHELL["start_ns"], 811, 990_000_000, "bash"),
        LineageProcess(_CAT["pid"], _CAT["start_ns"], _SHELL["pid"], _SHELL["start_ns"], "cat"),
    ),
)
RESPONSE = Response(
    pid=25_597,
    start_ns=AT_NS,
    comm="cat",
    action="would_kill",
    reason="dry_run is on",
    dry_run=True,
    score=210,
    rule="CHAIN Credential access then execution",
    time_ns=AT_NS + 3_000_000,
)


def _canonical(message: messages.Batch | messages.Single) -> bytes:
    """What ingest makes of it."""
    return encode(validate(encode(message), ADDRESS, received_at_unix_ms=NOW_MS + 8))


def _alert() -> bytes:
    origin = Origin(address=ADDRESS, host=HOST, source="agent")
    event = messages.event_id(EPOCH, 1295)
    made = alert_message(
        ALERT,
        origin,
        Firsts(),
        epoch=EPOCH,
        event_id=event,
        evidence="complete",
        created_at_unix_ms=NOW_MS,
    )
    return encode(made)


def _status() -> dict[str, Any]:
    """What the heartbeat's record has, of one probe and one actor."""
    numbers = dict.fromkeys(ActorStatistics.__dataclass_fields__, 0)
    actor = ActorStatistics(**numbers | {"received": 812, "handled": 812, "capacity": 64})
    engine = Engine(RuleSet(FilterSettings(), []))
    return {
        "agent_id": ADDRESS.agent_id,
        "version": "0.1.0",
        "uptime_secs": 30.021,
        "probes": {"exec": asdict_of(COUNTERS.probes["exec"])},
        "detection": msgspec.to_builtins(engine.statistics()),
        "actors": {"correlator": asdict(actor)},
    }


def asdict_of(value: msgspec.Struct) -> dict[str, Any]:
    """A struct as a mapping."""
    return dict(msgspec.to_builtins(value))


def _heartbeat() -> bytes:
    return encode(
        messages.Heartbeat(
            agent_id=ADDRESS.agent_id,
            tenant_id=ADDRESS.tenant_id,
            hostname=HOST.hostname,
            version="0.1.0",
            policy_version="5b1f3c0e9a7d2468",
            sent_at_unix_ms=NOW_MS,
            uptime_secs=30.0,
            epoch=EPOCH,
            counters=COUNTERS,
            spool=messages.Spool(batches=2, bytes=61_440, oldest_age_secs=0.25),
        )
    )


def _invalid() -> bytes:
    came = b'{"schema_version":2,"batch_id":'
    where = f"telemetry.raw.{ADDRESS.tenant_id}.{ADDRESS.agent_id}"
    delivery = Delivery(where, came, "x", "TELEMETRY_RAW", 4711, 1, NOW_MS, "", 0)
    why = "Input data was truncated"
    return refusal(delivery, reason="invalid", detail=why, received_at_unix_ms=NOW_MS).payload


def _ledger() -> bytes:
    account = Account(*ADDRESS, epochs=1, seen=1204, filtered=3, delivered=1201, read=1201)
    account.seeds, account.spooled, account.accepted, account.stored = 95, 1296, 1296, 1296
    account.alerts_raised = account.alerts_stored = 2
    account.as_of_unix_ms = NOW_MS
    return to_json([account]).encode()


def _recording() -> bytes:
    header = Header(FORMAT, BOOT_ID, BOOT_NS, [SEED], HOST.hostname)
    return encode(header) + b"\n" + encode([FORK, EXEC]) + b"\n" + encode([OPEN, EXIT]) + b"\n"


def _replayed(raw: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        path.write_bytes(raw)
        recording = Recording(path)
        sweeps = list(recording)
        assert recording.damage is None
        recording.close()
    return b"".join(encode(each) + b"\n" for each in (recording.header, *sweeps))


def _log() -> bytes:
    line = {
        "agents": ["old-name"],
        "event": "pins of other agents are left; --detach removes them",
        "kind": "log",
        "level": "warning",
        "timestamp": "2026-11-25T04:43:47.000000Z",
    }
    return json.dumps(line).encode() + b"\n"


def _any(raw: bytes) -> bytes:
    return raw if json.loads(raw) else b""


def by(*types: Any) -> Callable[[bytes], bytes]:
    """Decode strictly as one of these, and encode what came of it."""
    kind = types[0]
    for each in types[1:]:
        kind |= each
    decoder = msgspec.json.Decoder(kind)
    return lambda raw: encode(decoder.decode(raw))


@dataclass(frozen=True)
class Example:
    """How an example is made, and how it is read."""

    text: Callable[[], bytes]
    parse: Callable[[bytes], bytes]
    lines: bool = False
    """It is shown as it is, line by line."""


def _line(made: Callable[[], bytes], parse: Callable[[bytes], bytes] = _any) -> Example:
    return Example(made, parse, lines=True)


EXAMPLES: Mapping[str, Example] = {
    "batch": Example(lambda: encode(BATCH), by(messages.Batch, messages.Single)),
    "canonical batch": Example(
        lambda: _canonical(BATCH), by(messages.CanonicalBatch, messages.CanonicalSingle)
    ),
    "single": Example(lambda: encode(SINGLE), by(messages.Batch, messages.Single)),
    "canonical single": Example(
        lambda: _canonical(SINGLE), by(messages.CanonicalBatch, messages.CanonicalSingle)
    ),
    **{
        f"event {event.__struct_config__.tag}": Example(
            lambda event=event: encode(event),  # type: ignore[misc]
            by(messages.Event),
        )
        for event in EVENTS
    },
    "alert": Example(_alert, by(messages.Alert)),
    "heartbeat": Example(_heartbeat, by(messages.Heartbeat)),
    "invalid": Example(_invalid, by(messages.Invalid)),
    "ledger": Example(_ledger, _any),
    "line exec": _line(
        lambda: render.event_json(EXEC, EXEC.ancestry, BOOT_NS),
        lambda raw: by(render._ExecLine)(raw) + b"\n",
    ),
    "line conn": _line(lambda: render.event_json(CONNECT, CONNECT.ancestry, BOOT_NS)),
    "line alert": _line(lambda: render.alert_json(ALERT, BOOT_NS)),
    "line response": _line(lambda: render.response_json(RESPONSE, BOOT_NS)),
    "line status": Example(lambda: render.status_json(_status()), _any),
    "line log": _line(_log),
    "recording": _line(_recording, _replayed),
}
