"""The parts of the backend: which actors each service is made of, and how they are joined.

A service is one part in a process of its own; the stack is all of them in one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import trio

from actors.runtime import Kind
from services.alert_writer.actors import AlertWriter
from services.buckets import Buckets
from services.claims import Claims
from services.detection.agents import AgentCounts
from services.detection.engine import MakeDetection
from services.detection.host_engine import HostEngine
from services.detection.leases import Leases
from services.detection.processing import WorkCounts
from services.detection.reach import Reach, open_reach
from services.detection.rules import RuleLooker, rule_files
from services.detection.worker import Worker
from services.gate import Gate
from services.ingest.actors import IngestCounts, Judge, Outlet
from services.ingest.sequence import Sequences
from services.intake import Intake
from services.keeper import Keeper
from services.metrics import Metrics, MetricsServer
from services.settings import Settings
from services.telemetry_writer.actors import InvalidWriter, Retainer, TelemetryWriter
from services.writing import WriteCounts
from transport import streams
from transport.session import Session
from transport.streams import Consumer

ALERTS_PER_SEC = 200
ALERTS_BURST = 20_000
"""Of one agent, its workers' included: more than any rule should raise."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the actors of one process share."""

    settings: Settings
    session: Session
    gate: Gate | None
    """None where no part needs a store."""
    metrics: Metrics
    listen: str
    streams_ready: trio.Event = field(default_factory=trio.Event)
    """Set once the broker has the streams and consumers."""
    claims: list[Claims] = field(default_factory=list)
    """Every intake's, to be given back at the end."""
    reaches: list[Reach] = field(default_factory=list)
    """The shared states."""

    def claim(self, name: str, consumer: Consumer) -> Claims:
        """The record of one intake's messages, which says whether its part gets on."""
        claims = Claims(self.session, durable=consumer.durable)
        self.claims.append(claims)
        self.metrics.add(
            f"{name}_messages",
            lambda: {
                "in_hand": len(claims),
                "acked": claims.acked,
                "returned": claims.returned,
                "ended": claims.ended,
                "stalled_secs": claims.progress.stalled_secs(),
            },
        )
        self.metrics.check(f"{name}_progress", claims.progress.is_made)
        return claims

    def store(self) -> Gate:
        """The gate of a part that needs a store."""
        if self.gate is None:
            raise TypeError("a part needs a store and its process has none")
        return self.gate


@dataclass(frozen=True, kw_only=True)
class Part:
    """One service."""

    name: str
    kinds: Callable[[Resources], dict[str, Kind]]
    actors: Mapping[str, Any]
    """Its actors, as in ``[topology.<name>.actors]``."""
    consumers: tuple[Consumer, ...]
    """Durable consumers it reads."""
    needs_store: bool


def _intake(resources: Resources, consumer: Consumer, claims: Claims, *, batch: int) -> Kind:
    return Kind.of(
        Intake,
        session=resources.session,
        consumer=consumer,
        claims=claims,
        ready=resources.streams_ready,
        batch=batch,
    )


def _ingest_kinds(resources: Resources) -> dict[str, Kind]:
    settings = resources.settings.ingest
    claims = resources.claim("ingest", streams.INGEST)
    counts, sequences = IngestCounts(), Sequences()
    buckets = Buckets(rate_per_sec=settings.agent_events_per_sec, burst=settings.agent_burst_events)
    resources.metrics.add("ingest", lambda: asdict(counts))
    resources.metrics.add("sequence", lambda: asdict(sequences.counts))
    return {
        "ingest_intake": _intake(resources, streams.INGEST, claims, batch=64),
        "ingest_judge": Kind.of(
            Judge, claims=claims, buckets=buckets, sequences=sequences, counts=counts
        ),
        "ingest_outlet": Kind.of(Outlet, session=resources.session, claims=claims, counts=counts),
    }


def _writer(  # noqa: PLR0913 - what makes one differ from another
    resources: Resources,
    kind: type[Any],
    consumer: Consumer,
    *,
    name: str,
    batch: int,
    buckets: Buckets | None = None,
) -> dict[str, Kind]:
    """An intake and a writer, ``<name>_intake`` and ``<name>_writer``."""
    claims, counts = resources.claim(name, consumer), WriteCounts()
    resources.metrics.add(f"{name}_writer", lambda: asdict(counts))
    return {
        f"{name}_intake": _intake(resources, consumer, claims, batch=batch),
        f"{name}_writer": Kind.of(
            kind,
            session=resources.session,
            claims=claims,
            gate=resources.store(),
            counts=counts,
            durable=consumer.durable,
            buckets=buckets,
        ),
    }


def _telemetry_kinds(resources: Resources) -> dict[str, Kind]:
    batch = resources.settings.telemetry_writer.batch_messages
    return {
        **_writer(
            resources, TelemetryWriter, streams.TELEMETRY_WRITER, name="telemetry", batch=batch
        ),
        **_writer(resources, InvalidWriter, streams.INVALID_WRITER, name="invalid", batch=256),
        "retainer": Kind.of(Retainer, gate=resources.store()),
    }


def _alert_kinds(resources: Resources) -> dict[str, Kind]:
    batch = resources.settings.alert_writer.batch_messages
    buckets = Buckets(rate_per_sec=ALERTS_PER_SEC, burst=ALERTS_BURST)
    return _writer(
        resources,
        AlertWriter,
        streams.ALERT_WRITER,
        name="alert",
        batch=batch,
        buckets=buckets,
    )


def _detection_kinds(make: MakeDetection | None, resources: Resources) -> dict[str, Kind]:
    files = rule_files(resources.settings.rules, resources.settings.filters)
    settings, claims = resources.settings.detection, resources.claim("detection", streams.DETECTION)
    reach = open_reach(
        settings.state, prefix=settings.key_prefix, password_file=settings.state_password_file
    )
    resources.reaches.append(reach)
    leases = Leases(reach, partitions=streams.DETECTION.partitions)
    counts, agents = WorkCounts(), AgentCounts()
    resources.metrics.add("detection", lambda: asdict(counts))
    resources.metrics.add("detection_engines", lambda: asdict(agents))
    resources.metrics.add(
        "detection_state",
        lambda: {
            "reachable": reach.available,
            "round_trips": reach.round_trips,
            "failures": reach.failures,
            "partitions_held": len(leases.tokens),
            "workers": leases.workers,
        },
    )
    resources.metrics.check("state", lambda: reach.available)
    worker = Kind.of(
        Worker,
        session=resources.session,
        reach=reach,
        leases=leases,
        consumer=streams.DETECTION,
        claims=claims,
        make=make or partial(HostEngine, lambda: files.book.rules),
        batch=settings.batch_messages,
        max_agents=settings.max_agents,
        counts=counts,
        agent_counts=agents,
        ready=resources.streams_ready,
    )
    resources.metrics.add(
        "detection_rules",
        lambda: {"changes_refused": files.refused, **dict(files.counts())},
    )
    return {"detection_worker": worker, "rule_looker": Kind.of(RuleLooker, files=files)}


def detection_part(make: MakeDetection | None = None) -> Part:
    """The detection service, with engines of the rules in force or of another kind."""
    return Part(
        name="detection",
        kinds=partial(_detection_kinds, make),
        actors={
            "detection_worker": {"kind": "detection_worker", "restart": "transient"},
            "rule_looker": {"kind": "rule_looker", "restart": "transient"},
        },
        consumers=(streams.DETECTION,),
        needs_store=False,
    )


def common_kinds(resources: Resources, consumers: Sequence[Consumer]) -> dict[str, Kind]:
    """The actors of every process: one serves metrics, one looks after the streams."""
    session, replicas = resources.session, resources.settings.broker.replicas
    return {
        "metrics": Kind.of(MetricsServer, metrics=resources.metrics, listen=resources.listen),
        "keeper": Kind.of(
            Keeper,
            session=session,
            consumers=consumers,
            ready=resources.streams_ready,
            replicas=replicas,
            claims=resources.claims,
        ),
    }


COMMON_ACTORS = {
    "metrics": {"kind": "metrics", "restart": "transient"},
    "keeper": {"kind": "keeper", "restart": "transient"},
}
_SMALL = {"capacity": 2, "overflow": "block"}


def _pair(name: str) -> dict[str, Any]:
    return {
        f"{name}_intake": {
            "kind": f"{name}_intake",
            "to": [f"{name}_writer"],
            "restart": "transient",
        },
        f"{name}_writer": {"kind": f"{name}_writer", "mailbox": _SMALL},
    }


INGEST = Part(
    name="ingest",
    kinds=_ingest_kinds,
    actors={
        "ingest_intake": {"kind": "ingest_intake", "to": ["ingest_judge"], "restart": "transient"},
        "ingest_judge": {"kind": "ingest_judge", "to": ["ingest_outlet"], "mailbox": _SMALL},
        "ingest_outlet": {"kind": "ingest_outlet", "mailbox": _SMALL},
    },
    consumers=(streams.INGEST,),
    needs_store=False,
)
TELEMETRY_WRITER = Part(
    name="telemetry_writer",
    kinds=_telemetry_kinds,
    actors={
        **_pair("telemetry"),
        **_pair("invalid"),
        "retainer": {"kind": "retainer", "restart": "transient"},
    },
    consumers=(streams.TELEMETRY_WRITER, streams.INVALID_WRITER),
    needs_store=True,
)
ALERT_WRITER = Part(
    name="alert_writer",
    kinds=_alert_kinds,
    actors=_pair("alert"),
    consumers=(streams.ALERT_WRITER,),
    needs_store=True,
)
DETECTION = detection_part()
PARTS = (INGEST, TELEMETRY_WRITER, DETECTION, ALERT_WRITER)
