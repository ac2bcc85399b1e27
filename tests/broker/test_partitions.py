"""Partitions: the stream that has them, and taking one over, on a real broker."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
import trio

from tests.broker.kit import connected, take
from transport import streams
from transport.errors import StreamMismatch
from transport.partitions import Overtaken, take_over
from transport.server import EmbeddedServer
from transport.session import Outgoing, Session
from transport.streams import (
    DETECTION,
    PARTITIONS,
    TELEMETRY_CANONICAL,
    TELEMETRY_DETECTION,
    Consumer,
    ensure,
    make_room,
)

BOTH = (TELEMETRY_CANONICAL, TELEMETRY_DETECTION)


def accepted(numbers: Iterable[int], *, agents: int = 1, size: int = 10) -> list[Outgoing]:
    return [
        Outgoing(
            f"telemetry.accepted.acme.web-{number % agents}",
            b"%d " % number + b"x" * size,
            f"id-{number}",
        )
        for number in numbers
    ]


async def api(session: Session, path: str, body: Any = None) -> dict[str, Any]:
    payload = b"" if body is None else msgspec.json.encode(body)
    found: dict[str, Any] = msgspec.json.decode(
        await session.request(f"$JS.API.{path}", payload, within_secs=5)
    )
    assert "error" not in found, found
    return found


async def state(session: Session, stream: str, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await api(session, f"STREAM.INFO.{stream}", body))["state"]
    return found


async def copied(session: Session, messages: int) -> dict[str, Any]:
    """The state of the copy, once it has so many messages."""
    with trio.fail_after(30):
        while True:
            found = await state(session, "TELEMETRY_DETECTION", subjects_filter=">")
            if found["messages"] >= messages:
                return found
            await trio.sleep(0.05)


async def test_what_is_accepted_is_there_again_by_partition(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=BOTH)
        await session.publish_all(accepted(range(200), agents=50), within_secs=10)
        subjects = (await copied(session, 200))["subjects"]
        tokens = [subject.split(".") for subject in subjects]
        assert {tuple(rest) for _, _, *rest in tokens} == {("acme", f"web-{n}") for n in range(50)}
        assert len(tokens) == 50, "an agent is in one partition"
        used = {int(partition) for _, partition, *_ in tokens}
        assert len(used) > 8
        assert used <= set(range(PARTITIONS))


async def test_another_split_is_refused(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=BOTH)
        source = TELEMETRY_DETECTION.source
        assert source is not None
        other = dataclasses.replace(source, becomes=source.becomes.replace("16", "8"))
        with pytest.raises(StreamMismatch, match="TELEMETRY_DETECTION exists with sources"):
            await ensure(session, streams=[dataclasses.replace(TELEMETRY_DETECTION, source=other)])


async def partition_of(session: Session) -> int:
    """The partition of ``web-0``."""
    await session.publish_all(accepted([0]), within_secs=5)
    (subject,) = (await copied(session, 1))["subjects"]
    return int(subject.split(".")[1])


async def test_what_the_previous_owner_had_in_hand_comes_again_before_what_is_newer(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=BOTH)
        partition = await partition_of(session)
        old = await take_over(session, DETECTION, partition, token=5)
        await session.publish_all(accepted(range(1, 10)), within_secs=5)
        async with session.consume(old) as feed:
            first = await take(feed, 10)
            session.ack(first[:4])
            await session.publish_all(accepted(range(10, 20)), within_secs=5)
            new = await take_over(session, DETECTION, partition, token=6)
            async with session.consume(new) as other:
                found = await take(other, 16)
            assert [int(each.payload.split()[0]) for each in found] == list(range(4, 20))
            session.ack(first[4:])  # of a consumer that is gone
            with trio.move_on_after(0.5):
                while True:
                    late = await feed.receive()
                    assert all(each.generation for each in late)
        names = await api(session, "CONSUMER.NAMES.TELEMETRY_DETECTION")
        assert names["consumers"] == [f"detection-{partition}-6"]


async def test_who_slept_through_the_loss_of_a_partition_gets_nothing_of_it(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=BOTH)
        partition = await partition_of(session)
        old = await take_over(session, DETECTION, partition, token=5)
        async with session.consume(old) as feed:
            await take(feed, 1)  # and asks for more
            new = await take_over(session, DETECTION, partition, token=6)
            await session.publish_all(accepted(range(1, 10)), within_secs=5)
            async with session.consume(new) as other:
                assert len(await take(other, 10)) == 10
            with trio.move_on_after(1.5) as waited:
                await feed.receive()
            assert waited.cancelled_caught
        with pytest.raises(Overtaken) as caught:
            await take_over(session, DETECTION, partition, token=5)
        assert caught.value.token == 6


async def test_a_takeover_that_was_cut_short_is_finished_by_the_next(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=BOTH)
        partition = await partition_of(session)
        old = await take_over(session, DETECTION, partition, token=5)
        async with session.consume(old) as feed:
            session.ack(await take(feed, 1))
        config = (await api(session, f"CONSUMER.INFO.TELEMETRY_DETECTION.{old.durable}"))["config"]
        name = f"detection-{partition}-6"
        config |= {"durable_name": name, "name": name}
        body = {"stream_name": "TELEMETRY_DETECTION", "config": config}
        await api(session, f"CONSUMER.DURABLE.CREATE.TELEMETRY_DETECTION.{name}", body)
        new = await take_over(session, DETECTION, partition, token=7)
        names = await api(session, "CONSUMER.NAMES.TELEMETRY_DETECTION")
        assert names["consumers"] == [new.durable]
        await session.publish_all(accepted([1]), within_secs=5)
        async with session.consume(new) as feed:
            (only,) = await take(feed, 1)
        assert only.payload.startswith(b"1 ")


async def test_a_full_copy_waits_for_room_and_loses_nothing_even_if_the_broker_is_killed(
    nats_server: EmbeddedServer,
) -> None:
    """A work queue would: emptied and restarted, it begins behind what it has not copied."""
    small = dataclasses.replace(TELEMETRY_DETECTION, max_bytes=60_000)
    async with connected(nats_server) as session:
        await ensure(session, streams=(TELEMETRY_CANONICAL, small))
        partition = await partition_of(session)
        owned = await take_over(session, DETECTION, partition, token=1)
        for other in range(PARTITIONS):
            if other != partition:
                await take_over(session, DETECTION, other, token=1)
        await session.publish_all(accepted(range(1, 100), size=1000), within_secs=5)
        await copied(session, 30)
        numbers: set[int] = set()

        async def read(own: Consumer, until_there: int) -> None:
            async with session.consume(own) as feed:
                while len(numbers) < until_there:
                    with trio.move_on_after(1):
                        deliveries = await feed.receive()
                        session.ack(deliveries)
                        numbers.update(int(each.payload.split()[0]) for each in deliveries)
                    await trio.sleep(0.1)
                    await make_room(session, [small])

        with trio.fail_after(90):
            await read(owned, 20)
            nats_server.kill()
            await nats_server.wait()
            await nats_server.start()
            await session.wait_connected()
            await read(await take_over(session, DETECTION, partition, token=2), 100)
        assert numbers == set(range(100))


async def test_no_room_is_made_of_what_is_not_copied(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataclasses.replace(TELEMETRY_CANONICAL, max_bytes=60_000, readers=("reader",))
    copy = dataclasses.replace(TELEMETRY_DETECTION, max_bytes=20_000)
    monkeypatch.setattr(streams, "STREAMS", (source, copy))
    reader = streams.Consumer("reader", "TELEMETRY_CANONICAL")
    async with connected(nats_server) as session:
        await ensure(session, streams=(source, copy), consumers=(reader,))
        receipts = await session.publish_all(accepted(range(60), size=1000), within_secs=5)
        stored = sum(receipt.stored for receipt in receipts)
        async with session.consume(reader) as feed:
            session.ack(await take(feed, stored))
        await copied(session, 1)
        removed = 0
        for _ in range(3):
            removed += await make_room(session, [source])
        there = await state(session, "TELEMETRY_DETECTION")
        assert 0 < removed <= there["last_seq"]
        assert (await state(session, "TELEMETRY_CANONICAL"))["first_seq"] <= there["last_seq"] + 1
