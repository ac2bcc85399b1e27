"""A stolen agent's key against the backend as shipped, by chance: it harms nobody else.

A minute of it by default; an hour by ``TESTS_FUZZ_SECS=3600``. The seed is printed, and
``TESTS_FUZZ_SEED`` sets it.
"""

from __future__ import annotations

import os
import random
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from actors.detection.settings import FilterSettings
from actors.rulebook import RulesSettings
from services.detection.host_engine import HostEngine
from services.detection.rules import rule_files
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from tests.broker.kit import publish_until_stored
from tests.faults.backend import TABLES
from tests.faults.fuzz import Fuzz, Shot
from tests.faults.guarded import Guarded, guarded, health, healthy
from tests.services.messages import HOST, a_batch, an_event
from transport.crossing import open_loop
from transport.messages import Alert, Batch, CanonicalBatch, Event, alert_id, encode, message_id
from transport.session import Outgoing, Session
from transport.subjects import Address

EVIL, GOOD = "t.evil", "other.good"
# Taken out of the environment, where the services would look for keys of the configuration.
SECS = float(os.environ.pop("TESTS_FUZZ_SECS", "60"))
SEED = int(os.environ.pop("TESTS_FUZZ_SEED", "0")) or random.SystemRandom().getrandbits(32)
SHOTS_PER_SEC = 150
BATCHES_PER_SEC = 4
EVENTS = 5
PASSES_SECS = 30.0
"""A good message is stored within so much, whatever else is sent."""
_BACKLOG_MAX_BYTES = 4 << 20
_BURST = 100
_BURSTS_OF_TURNS = 1 / 300
"""Now and then as much as a hundred turns at once."""


class Good:
    """An agent that does what agents do, and knows what must be stored of it."""

    def __init__(self) -> None:
        self.address = Address(*GOOD.split("."))
        self.batches = 0
        self.alerts: dict[str, int] = {}
        files = rule_files(RulesSettings(), FilterSettings())
        self._engine = HostEngine(lambda: files.book.rules, self.address, HOST, None)

    @property
    def events(self) -> int:
        return self.batches * EVENTS

    def next(self) -> list[Outgoing]:
        """A batch and an alert of its own; notes what comes of them."""
        tenant, agent = self.address
        number = self.batches
        first = number * EVENTS
        batch = a_batch(number, first=first, count=EVENTS, tenant_id=tenant, agent_id=agent)
        self.batches += 1
        own = self._own_alert(batch)
        self.alerts[own.alert_id] = 1
        for alert in self._engine.process(canonical(batch)):
            assert alert.evidence == "complete"
            self.alerts[alert.alert_id] = alert.count
        return [
            Outgoing(f"{prefix}.{GOOD}", payload, message_id(tenant, agent, payload))
            for prefix, payload in (("telemetry.raw", encode(batch)), ("alerts", encode(own)))
        ]

    def _own_alert(self, batch: Batch) -> Alert:
        return Alert(
            alert_id=alert_id(batch.batch_id, "own"),
            tenant_id=batch.tenant_id,
            agent_id=batch.agent_id,
            hostname="web",
            rule="own",
            severity="INFO",
            detail=batch.batch_id,
            event_type="exec",
            event_pid=1,
            event_comm="sh",
            created_at_unix_ms=batch.observed_at_unix_ms,
            observed_at_unix_ms=batch.observed_at_unix_ms,
            epoch=batch.epoch,
        )


def canonical(batch: Batch) -> CanonicalBatch:
    values = {name: getattr(batch, name) for name in batch.__struct_fields__}
    return CanonicalBatch(**values, received_at_unix_ms=5)


def publish_shot(session: Session, shot: Shot) -> bool:
    """Send it past our own checks; whether there was a connection to send it over."""
    link = session._link
    if link is None or link.wire.pending_data_size > _BACKLOG_MAX_BYTES:
        return False
    subject, reply, headers, payload = shot
    words = [b"HPUB" if headers else b"PUB", subject, *([reply] if reply else [])]
    words += [b"%d" % len(headers)] if headers else []
    words.append(b"%d" % (len(headers) + len(payload)))
    link.wire._put(b" ".join(words) + b"\r\n" + headers + payload + b"\r\n")
    return True


async def attack(session: Session, fuzz: Fuzz, *, rate: int) -> int:
    """Shoot until cancelled; how often."""
    shots = 0
    try:
        while True:
            burst = _BURST if fuzz.chance.random() < _BURSTS_OF_TURNS else 1
            for _ in range(rate // 10 * burst):
                shots += publish_shot(session, fuzz.shot())
            await trio.sleep(0.1)
    finally:
        sys.stdout.write(f"shots: {shots}\n")


async def stored_events(running: Guarded) -> list[Event]:
    """What the store has of the good agent, as it would be read back."""
    store = SqliteStore(StoreSettings(url=f"sqlite:{running.database}"))
    tenant, agent = GOOD.split(".")
    found = store.history(since_unix_ms=0, until_unix_ms=1 << 52, tenant_id=tenant, agent_id=agent)
    return [event async for chunk in found for event in chunk.events]


def stored(running: Guarded) -> int:
    return sum(running.count(table, agent="good") for table in TABLES)


async def live(running: Guarded, good: Good, *, secs: float) -> None:
    """The good agent among the shots; everything stays well, and what is good is stored soon."""
    evil, honest = running.agent(EVIL), running.agent(GOOD)
    fuzz = Fuzz(random.Random(SEED), own=EVIL, victim=GOOD)
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(evil.run)
        nursery.start_soon(honest.run)
        await evil.wait_connected()
        await honest.wait_connected()
        nursery.start_soon(partial(attack, evil, fuzz, rate=SHOTS_PER_SEC))
        deadline = time.monotonic() + secs
        while time.monotonic() < deadline:
            for _ in range(5 * BATCHES_PER_SEC):
                await publish_until_stored(honest, good.next())
                await trio.sleep(1 / BATCHES_PER_SEC)
            await trio.to_thread.run_sync(look, running, good.events)
        nursery.cancel_scope.cancel()


def look(running: Guarded, events: int) -> None:
    """Whether all are well and what was sent by now is stored."""
    running.wait_for(lambda: stored(running) >= events, within_secs=PASSES_SECS)
    for service in running.services.values():
        code, text = health(service)
        assert code == 200, f"{service.name}: {text}\n{service.log()[-5000:]}"


@pytest.mark.parametrize("limits", ["", "agent_events_per_sec = 2000\nagent_burst_events = 20000"])
def test_a_stolen_key_harms_nobody_else(tmp_path: Path, limits: str) -> None:
    sys.stdout.write(f"seed: {SEED}\n")
    good = Good()
    with guarded(tmp_path, (EVIL, GOOD), ingest=limits) as running:
        running.start()
        running.wait_for(lambda: all(map(healthy, running.services.values())))
        trio.run(partial(live, running, good, secs=SECS / 2))
        running.wait_for(lambda: stored(running) >= good.events)
        assert running.numbers(agent="good") == list(range(good.events))
        assert trio.run(stored_events, running) == [an_event(n) for n in range(good.events)]
        query = "SELECT alert_id, count, evidence FROM alerts WHERE agent_id = 'good'"
        running.wait_for(lambda: len(running.rows(query)) >= len(good.alerts))
        running.wait_for(lambda: alerts(running, query) == good.alerts, within_secs=PASSES_SECS)
        assert all("complete" in str(row[2]) for row in running.rows(query))
        query = "SELECT reason, detail FROM invalid_messages WHERE agent_id = 'good'"
        for reason, detail in running.rows(query):
            # The broker's own acks, which are nothing of the good agent's.
            assert reason in ("invalid", "odd_subject"), (reason, detail)
        account = running.account("good")
        assert not account["problems"], account
        tell(running)
        for service in running.services.values():
            assert service.stop() == 0, service.log()[-3000:]
            assert "Traceback" not in service.log(), service.log()
            assert "broker lost" not in service.log()


def tell(running: Guarded) -> None:
    """What came of the shots, for whoever reads along."""
    query = "SELECT agent_id, reason, count(*) FROM invalid_messages GROUP BY agent_id, reason"
    for agent, reason, count in running.rows(query):
        sys.stdout.write(f"invalid, {agent}: {reason} {count}\n")
    for table in (*TABLES, "alerts"):
        sys.stdout.write(f"evil's rows of {table}: {running.count(table, agent='evil')}\n")


def alerts(running: Guarded, query: str) -> dict[str, int]:
    return {str(row[0]): int(row[1]) for row in running.rows(query)}
