"""A part that has work and finishes none says so, and is well again by itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import trio

from services.progress import STALLED_SECS
from tests.broker.kit import publish_until_stored
from tests.faults.backend import TABLES, backend
from tests.faults.guarded import health, healthy
from tests.services.messages import a_batch
from transport.crossing import open_loop
from transport.messages import encode
from transport.session import Outgoing, Session
from transport.settings import BrokerSettings
from transport.streams import TELEMETRY_CANONICAL


async def bound(url: str, max_bytes: int, *messages: Outgoing) -> None:
    """Give the stream that ingest fills another size; and publish."""
    session = Session(BrokerSettings(), name="operator", url=url)
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.wait_connected()
        path = f"$JS.API.STREAM.{{}}.{TELEMETRY_CANONICAL.name}"
        answer = await session.request(path.format("INFO"), b"", within_secs=5)
        config = msgspec.json.decode(answer)["config"] | {"max_bytes": max_bytes}
        await session.request(path.format("UPDATE"), msgspec.json.encode(config), within_secs=5)
        await publish_until_stored(session, messages)
        nursery.cancel_scope.cancel()


def test_a_part_that_finishes_nothing_is_not_well_and_then_is_again(tmp_path: Path) -> None:
    with backend(tmp_path) as running:
        running.start()
        running.wait_for(lambda: all(map(healthy, running.services.values())))
        ingest = running.services["ingest"]
        message = Outgoing("telemetry.raw.acme.web-1", encode(a_batch()), "one")
        trio.run(partial(bound, running.url, 100, message))
        running.wait_for(lambda: health(ingest)[0] == 503, within_secs=STALLED_SECS + 30)
        assert '"ingest_progress": false' in health(ingest)[1]
        assert '"broker": true' in health(ingest)[1]
        trio.run(partial(bound, running.url, TELEMETRY_CANONICAL.max_bytes))
        running.wait_for(lambda: healthy(ingest), within_secs=30)
        running.wait_for(lambda: sum(running.count(table) for table in TABLES) == 5)
