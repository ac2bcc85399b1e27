"""The worst subjects that a broker accepts, in each stream, against each service that reads it."""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.broker.kit import publish_until_stored
from tests.faults.backend import TABLES, Backend, Process, backend
from tests.faults.worst import put_into
from tests.services.messages import a_batch
from tests.services.test_writing import ALERT, canonical
from transport.crossing import open_loop
from transport.messages import encode
from transport.session import Outgoing, Session
from transport.settings import BrokerSettings
from transport.streams import (
    ALERT_STREAM,
    TELEMETRY_CANONICAL,
    TELEMETRY_INVALID,
    TELEMETRY_RAW,
    Stream,
    ensure,
)

ACK = b'{"stream":"TELEMETRY_RAW","seq":1}'
PASSES_SECS = 20.0
CASES: dict[str, tuple[Stream, list[bytes]]] = {
    "telemetry.raw": (TELEMETRY_RAW, [ACK, encode(a_batch())]),
    "telemetry.accepted": (TELEMETRY_CANONICAL, [ACK, canonical(0)]),
    "alerts": (ALERT_STREAM, [ACK, encode(ALERT)]),
    "telemetry.invalid": (TELEMETRY_INVALID, [ACK]),
}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Backend]:
    with backend(tmp_path) as made:
        made.add_detection()
        yield made


def healthy(service: Process) -> bool:
    """Whether it says that all is well with it."""
    try:
        with urllib.request.urlopen(f"http://{service.listen}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False
    except OSError:
        return False


async def fill(url: str, prefix: str, stream: Stream, payloads: list[bytes]) -> int:
    """A stream of before, which takes all subjects under its prefix, and what may lie in it."""
    session = Session(BrokerSettings(), name="rogue", url=url)
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.wait_connected()
        before = dataclasses.replace(
            stream, subject=f"{prefix}.>", subject_max_messages=0, message_max_bytes=0
        )
        await ensure(session, streams=(before,))
        put_into(session, prefix.encode(), payloads)
        good = Outgoing(f"{prefix}.acme.last", b"{}", "last")
        await publish_until_stored(session, [good])
        answer = await session.request(f"$JS.API.STREAM.INFO.{stream.name}", b"", within_secs=5)
        nursery.cancel_scope.cancel()
    return int(json.loads(answer)["state"]["messages"])


async def send(url: str, *messages: Outgoing) -> None:
    session = Session(BrokerSettings(), name="good", url=url)
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.wait_connected()
        await publish_until_stored(session, messages)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("prefix", CASES)
def test_whatever_lies_in_a_stream_is_dealt_with_and_a_good_message_passes(
    running: Backend, prefix: str
) -> None:
    stream, payloads = CASES[prefix]
    running.broker.start()
    running.wait_for(lambda: answers(running))
    count = trio.run(fill, running.url, prefix, stream, payloads)
    assert count > 30 * len(payloads), "the broker takes such subjects"
    running.start(broker=False)
    running.wait_for(lambda: all(map(healthy, running.services.values())))
    batch = a_batch(7, first=0)
    alert = msgspec.structs.replace(ALERT, alert_id="7" * 36)
    began = time.monotonic()
    messages = (
        Outgoing("telemetry.raw.acme.web-1", encode(batch), "good-batch"),
        Outgoing("alerts.acme.web-1", encode(alert), "good-alert"),
    )
    trio.run(send, running.url, *messages)
    running.wait_for(
        lambda: sum(running.count(table) for table in TABLES) >= 5, within_secs=PASSES_SECS
    )
    running.wait_for(
        lambda: ("7" * 36,) in running.rows("SELECT alert_id FROM alerts"), within_secs=PASSES_SECS
    )
    assert time.monotonic() - began < PASSES_SECS
    if prefix != "telemetry.invalid":
        running.wait_for(lambda: odd(running) >= 30, within_secs=PASSES_SECS)
    assert all(map(healthy, running.services.values()))
    for service in running.services.values():
        assert service.stop() == 0, service.log()[-3000:]
        assert "Traceback" not in service.log(), service.log()
        assert "broker lost" not in service.log()


def odd(running: Backend) -> int:
    query = "SELECT count(*) FROM invalid_messages WHERE agent_id = 'odd'"
    rows: list[tuple[Any, ...]] = running.rows(query)
    return int(rows[0][0]) if rows else 0


def answers(running: Backend) -> bool:
    """Whether the broker runs."""
    return "Server is ready" in running.broker.log()
