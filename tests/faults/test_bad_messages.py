"""Messages that no agent of ours sends: refused one by one with a reason, at nobody else's cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import trio

from tests.faults.backend import TABLES, Backend, backend
from tests.services.messages import a_batch
from transport.crossing import open_loop
from transport.messages import encode
from transport.session import Outgoing, Receipt, Session
from transport.settings import BrokerSettings
from transport.streams import TELEMETRY_RAW, ensure

SUBJECT = "telemetry.raw.acme.web-1"


async def publish(url: str, payloads: list[bytes]) -> list[Receipt]:
    """Send each until the broker has it or can never have it, as an agent's spool does.

    The stream may not be there yet, and one agent can have a share of it.
    """
    session = Session(BrokerSettings(), name="rogue", url=url)
    receipts: list[Receipt] = []
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.wait_connected()
        await ensure(session, streams=(TELEMETRY_RAW,))
        for begin in range(0, len(payloads), 500):
            messages = [
                Outgoing(SUBJECT, payload, f"rogue-{number}")
                for number, payload in enumerate(payloads[begin : begin + 500], begin)
            ]
            found = await session.publish_all(messages, within_secs=10)
            while any(not each.stored and not each.permanent for each in found):
                await trio.sleep(0.2)
                found = await session.publish_all(messages, within_secs=10)
            receipts += found
        nursery.cancel_scope.cancel()
    return receipts


def altered(**changes: Any) -> bytes:
    return json.dumps({**msgspec.to_builtins(a_batch()), "schema_version": 2, **changes}).encode()


def refused(running: Backend) -> dict[str, int]:
    rows = running.rows("SELECT reason, count(*) FROM invalid_messages GROUP BY reason")
    return {str(reason): int(count) for reason, count in rows}


def started(running: Backend) -> None:
    running.start()
    running.wait_for(lambda: running.rows("SELECT * FROM schema_version"))


def test_bad_messages_are_refused_one_by_one(tmp_path: Path) -> None:
    huge = altered(first_seq=2**70)
    deep = b'{"schema_version":2,"events":' + b"[" * 100_000
    foreign = altered(tenant_id="other")
    payloads = [b"garbage %d" % number for number in range(10_000)]
    payloads += [huge, deep, foreign, encode(a_batch(0))]
    events = msgspec.to_builtins(a_batch(1, first=5).events)
    events[2]["pid"] = 2**70
    one_bad = {**msgspec.to_builtins(a_batch(1, first=5)), "events": events, "schema_version": 2}
    payloads.append(json.dumps(one_bad).encode())
    with backend(tmp_path) as running:
        started(running)
        receipts = trio.run(publish, running.url, [*payloads, b"x" * (2 << 20)])
        assert [receipt.stored for receipt in receipts[:-1]] == [True] * len(payloads)
        assert receipts[-1].permanent
        assert "more than the broker takes" in receipts[-1].error
        running.wait_for(lambda: sum(refused(running).values()) == 10_003)
        assert refused(running) == {"invalid": 10_002, "wrong_subject": 1}
        running.wait_for(lambda: sum(running.count(table) for table in TABLES) == 9)
        account = running.account()
        assert account["stored"] == account["rows"] == 9
        assert sum(account["rejected"].values()) == 1
        assert account["invalid_messages"] == {"invalid": 10_002, "wrong_subject": 1}
        assert "other" not in {each["tenant_id"] for each in running.ledger()["agents"]}


def test_the_same_batch_under_many_message_ids_is_stored_once(tmp_path: Path) -> None:
    batches = [encode(a_batch(number, first=5 * number)) for number in range(200)]
    with backend(tmp_path) as running:
        started(running)
        trio.run(publish, running.url, batches * 5)
        running.wait_for(lambda: sum(running.count(table) for table in TABLES) == 1000)
        numbers = running.numbers()
        assert numbers == list(range(1000))


def test_version_1_events_are_stored_under_their_ids(tmp_path: Path) -> None:
    singles = [
        json.dumps(
            {
                "schema_version": 1,
                "event_id": f"event-{number}",
                "agent_id": "web-1",
                "tenant_id": "acme",
                "host": {"hostname": "web"},
                "observed_at_unix_ms": 1_700_000_000_000 + number,
                "event": {"type": "open", "pid": 7, "comm": "cat", "filename": "/etc/shadow"},
            }
        ).encode()
        for number in range(1000)
    ]
    with backend(tmp_path) as running:
        started(running)
        trio.run(publish, running.url, singles * 2)
        running.wait_for(lambda: running.count("open_events") >= 1000)
        ids = {str(row[0]) for row in running.rows("SELECT event_id FROM open_events")}
        assert ids == {f"event-{number}" for number in range(1000)}
        assert running.count("open_events") == 1000
