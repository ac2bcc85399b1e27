"""What an agent's key can do to the backend as shipped: each attempt of the review, one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.broker.kit import publish_until_stored
from tests.faults.backend import TABLES
from tests.faults.guarded import Guarded, guarded, health, healthy
from tests.faults.worst import publish_raw
from tests.services.messages import a_batch
from transport.crossing import open_loop
from transport.messages import encode
from transport.session import Outgoing, Session

EVIL, GOOD = "t.evil", "t.good"
RAW = f"telemetry.raw.{EVIL}"
PASSES_SECS = 20.0
OK = b'{"nothing":"of use"}'


def evil(**changes: Any) -> bytes:
    """A batch of the hostile agent."""
    value = {**msgspec.to_builtins(a_batch(count=1)), "tenant_id": "t", "agent_id": "evil"}
    return json.dumps({"schema_version": 2, **value, **changes}).encode()


def single(event_id: str) -> bytes:
    value = {"schema_version": 1, "event_id": event_id, "tenant_id": "t", "agent_id": "evil"}
    value |= {"host": {"hostname": "h"}, "observed_at_unix_ms": 1}
    return json.dumps({**value, "event": {"type": "exit", "pid": 1}}).encode()


def publish(session: Session, payload: bytes, reply: bytes = b"", times: int = 1) -> None:
    for _ in range(times):
        publish_raw(session, RAW.encode(), payload, reply=reply)


ATTEMPTS: dict[str, Callable[[Session], None]] = {
    "an event id that no header holds": lambda evil: publish(evil, single("a\x01b")),
    "an event id with a line's end": lambda evil: publish(evil, single("ab\n")),
    "a batch id with a line's end": lambda s: publish(s, evil(batch_id="00000000000000aa-1\n")),
    "probes without number": lambda session: publish(
        session, evil(counters={"probes": {f"p{n:05}": {} for n in range(50_000)}})
    ),
    "acks to alerts of two tokens": lambda session: publish(session, OK, b"alerts.x", 30),
    "acks to accepted": lambda s: publish(s, OK, b"telemetry.accepted.t.e\xc2\xa0l"),
    "acks to raw": lambda session: publish(session, OK, b"telemetry.raw.t.e\xc2\xa0l"),
    "acks to bytes": lambda session: publish(session, OK, b"telemetry.raw.t.e\xff\xfe", 2000),
    "acks to control characters": lambda s: publish(s, OK, b"telemetry.raw.t.e\x0b\x0c\x01l", 30),
    "acks to the invalid lane": lambda s: publish(s, OK, b"telemetry.invalid.t.good", 30),
    "acks to another's alerts": lambda session: publish(session, OK, b"alerts.t.good", 30),
    "evictions that never were": lambda session: publish(
        session,
        evil(
            counters={
                "evicted": [
                    {"epoch": "00000000000000aa", "first_seq": 10, "last_seq": 0, "reason": "age"}
                ]
            }
        ),
    ),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One backend, against which all is tried."""
    folder: Path = tmp_path_factory.mktemp("guarded")
    with guarded(folder, (EVIL, GOOD)) as made:
        made.start()
        made.wait_for(lambda: all(map(healthy, made.services.values())))
        yield made
        for service in made.services.values():
            assert service.stop() == 0, service.log()[-3000:]
            assert "Traceback" not in service.log()
            assert "broker lost" not in service.log()


def of_good(running: Guarded) -> int:
    return sum(running.count(table, agent="good") for table in TABLES)


async def attempt(running: Guarded, shoot: Callable[[Session], None], number: int) -> None:
    """The attempt, and then a batch of the good agent."""
    hostile, honest = running.agent(EVIL), running.agent(GOOD)
    batch = a_batch(number, first=5 * number, tenant_id="t", agent_id="good")
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(hostile.run)
        nursery.start_soon(honest.run)
        await hostile.wait_connected()
        await honest.wait_connected()
        shoot(hostile)
        await publish_until_stored(hostile, [Outgoing(RAW, OK, f"behind it {number}")])
        good = Outgoing(f"telemetry.raw.{GOOD}", encode(batch), f"good-{number}")
        await publish_until_stored(honest, [good])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_costs_nobody_else_anything(running: Guarded, name: str) -> None:
    number = list(ATTEMPTS).index(name)
    before = of_good(running)
    trio.run(partial(attempt, running, ATTEMPTS[name], number))
    running.wait_for(lambda: of_good(running) >= before + 5, within_secs=PASSES_SECS)
    for service in running.services.values():
        assert service.running.poll() is None, service.log()[-3000:]
        code, text = health(service)
        assert code == 200, (service.name, text)
