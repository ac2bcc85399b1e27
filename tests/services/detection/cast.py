"""An engine whose alerts tell what it saw and in which order, and agents that feed it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from tests.services.messages import HOST, a_batch
from transport.messages import Alert, CanonicalBatch, Host, alert_id, encode
from transport.session import Outgoing
from transport.subjects import ACCEPTED, Address, subject

EVENTS = 5
"""Of each batch."""
POISON = "poison"
"""A counter of this name makes the engine fail, after half of its work."""

POISON_EVENT = "poison-event"
"""A counter of this name makes it fail over the batch's second event alone."""

UNMAKEABLE = "unmakeable"
"""A boot of which no engine can be made."""


class Chain(msgspec.Struct):
    """Implements `Detection`: an alert for each batch says how many there were, and which."""

    boot_id: str
    count: int = 0
    digest: str = ""
    poisoned: tuple[tuple[int, str], ...] = ()

    def process(self, batch: CanonicalBatch) -> list[Alert]:
        self.count += 1
        self.digest = hashlib.sha256(f"{self.digest}/{batch.batch_id}".encode()).hexdigest()[:12]
        if POISON in batch.counters.probes:
            raise RuntimeError("this one is bad")
        bad = POISON_EVENT in batch.counters.probes
        self.poisoned = ((batch.first_seq + 1, "this event is bad"),) if bad else ()
        return [_alert(batch, self)]

    def snapshot(self) -> bytes:
        return msgspec.json.encode(self)


def make_chain(address: Address, host: Host, snapshot: bytes | None) -> Chain:
    """Implements `MakeDetection`."""
    if host.boot_id == UNMAKEABLE:
        raise RuntimeError("no engine")
    if snapshot is None:
        return Chain(host.boot_id)
    return msgspec.json.decode(snapshot, type=Chain)


def _alert(batch: CanonicalBatch, chain: Chain) -> Alert:
    return Alert(
        alert_id=alert_id(batch.batch_id, f"{batch.agent_id}/{chain.boot_id}"),
        tenant_id=batch.tenant_id,
        agent_id=batch.agent_id,
        hostname=batch.host.hostname,
        rule="a batch",
        severity="INFO",
        detail=f"{chain.boot_id} {chain.count} {chain.digest}",
        event_type="exec",
        event_pid=1,
        event_comm="sh",
        created_at_unix_ms=batch.received_at_unix_ms,
        observed_at_unix_ms=batch.observed_at_unix_ms,
    )


def batch_of(
    number: int, agent: str = "web-1", *, boot: str = "boot", **changes: Any
) -> CanonicalBatch:
    """Batch ``number`` of an agent, as ingest publishes it."""
    epoch = hashlib.sha256(agent.encode()).hexdigest()[:16]
    changes |= {"agent_id": agent, "epoch": epoch, "batch_id": f"{epoch}-{number}"}
    made = a_batch(number, first=number * EVENTS, count=EVENTS, **changes)
    host = msgspec.structs.replace(HOST, boot_id=boot)
    values = {name: getattr(made, name) for name in made.__struct_fields__} | {"host": host}
    return CanonicalBatch(**values, received_at_unix_ms=5)


def expected(numbers: Iterable[int], *, agent: str = "web-1", boot: str = "boot") -> list[str]:
    """Details of the alerts that these batches make, in this order."""
    chain = Chain(boot)
    batches = (batch_of(number, agent, boot=boot) for number in numbers)
    return [alert.detail for batch in batches for alert in chain.process(batch)]


def mail(*batches: CanonicalBatch, suffix: str = "") -> list[Outgoing]:
    """What ingest publishes of batches; with a suffix as if it had forgotten that it did."""
    return [
        Outgoing(
            subject(ACCEPTED, Address(each.tenant_id, each.agent_id)),
            encode(each),
            f"{each.agent_id}.{each.host.boot_id}.{each.batch_id}{suffix}",
        )
        for each in batches
    ]


def mail_of(
    numbers: Iterable[int], agents: Iterable[str] = ("web-1",), **changes: Any
) -> Iterator[Outgoing]:
    """Of each number a batch of each agent."""
    agents = tuple(agents)
    for number in numbers:
        yield from mail(*(batch_of(number, agent, **changes) for agent in agents))
