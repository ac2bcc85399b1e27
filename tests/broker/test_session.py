"""A session against a real broker: publish, consume, and what may go wrong in between."""

import functools
import os
import signal

import pytest
import trio
from structlog.testing import capture_logs

from tests.broker.kit import (
    WORKER,
    connected,
    make_work,
    publish_until_stored,
    running,
    session_for,
    take,
    until,
    work,
)
from transport import feed
from transport.crossing import open_loop
from transport.frames import message_id_text
from transport.server import EmbeddedServer
from transport.session import Outgoing, Receipt
from transport.streams import Consumer, ensure

PATIENT = Consumer("worker", "WORK", ack_wait_secs=30.0)


async def test_what_is_published_is_consumed_in_order(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        receipts = await session.publish_all(work(range(1000)), within_secs=10)
        assert receipts == [Receipt(stored=True)] * 1000
        async with session.consume(WORKER, batch=100, max_bytes=1 << 20) as channel:
            found = await take(channel, 1000)
            session.ack(found)
        assert [each.message_id for each in found] == [f"id-{n}" for n in range(1000)]
        assert [each.stream_seq for each in found] == list(range(1, 1001))
        assert {(each.subject, each.stream, each.deliveries) for each in found} == {
            ("work.acme.web-1", "WORK", 1)
        }
        assert found[7].payload.startswith(b"7 ")
        statistics = session.statistics()
    assert (statistics.published, statistics.acked, statistics.failed) == (1000, 1000, 0)
    assert statistics.delivered == 1000


async def test_twenty_thousand_messages_pass(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        receipts = await session.publish_all(work(range(20_000)), within_secs=60)
        assert all(receipt.stored for receipt in receipts)
        async with session.consume(WORKER, batch=500, max_bytes=4 << 20) as channel:
            seen: set[int] = set()
            async for deliveries in channel:
                assert len(deliveries) <= 500
                session.ack(deliveries)
                seen.update(each.stream_seq for each in deliveries)
                if len(seen) == 20_000:
                    break


async def test_the_same_id_is_a_duplicate(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        await session.publish_all(work(range(3)), within_secs=5)
        again = await session.publish_all(work(range(4)), within_secs=5)
        assert [receipt.duplicate for receipt in again] == [True, True, True, False]
        assert session.statistics().duplicates == 3


def _holds(things: list[Receipt], count: int) -> bool:
    return len(things) >= count


async def test_a_killed_broker_loses_nothing(nats_server: EmbeddedServer) -> None:
    messages = work(range(3000))
    async with connected(nats_server) as session, trio.open_nursery() as nursery:
        await make_work(session, consumer=PATIENT)
        receipts: list[Receipt] = []

        async def publish() -> None:
            for first in range(0, 3000, 100):
                receipts.extend(await publish_until_stored(session, messages[first : first + 100]))

        nursery.start_soon(publish)
        for stored in (300, 1500):
            await until(functools.partial(_holds, receipts, stored))
            nats_server.kill()
            await nats_server.wait()
            await nats_server.start()
        await until(lambda: len(receipts) == 3000)
        async with session.consume(WORKER, batch=500) as channel:
            found: list[str] = []
            with trio.fail_after(30):
                while len(found) < 3000:
                    deliveries = await channel.receive()
                    session.ack(deliveries)
                    found += [each.message_id for each in deliveries]
        assert found == [each.message_id for each in messages]
        assert session.statistics().reconnects == 2


async def test_unacked_messages_come_again_after_the_broker_was_killed(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        await session.publish_all(work(range(20)), within_secs=5)
        async with session.consume(WORKER, batch=50) as channel:
            found = await take(channel, 20)
            session.ack(found[:5])
            receipt = await session.publish_all(work([99]), within_secs=5)  # the acks are through
            assert receipt[0].stored
            nats_server.kill()
            await nats_server.wait()
            await until(lambda: not session.connected)
            session.ack(found[5:10])
            await nats_server.start()
            await session.wait_connected()
            session.ack(found[10:])
            again: dict[str, int] = {}
            with trio.fail_after(30):
                while len(again) < 16:
                    deliveries = await channel.receive()
                    again |= {each.message_id: each.deliveries for each in deliveries}
                    session.ack(deliveries)
        assert again.pop("id-99") <= 2
        assert set(again) >= {each.message_id for each in found[5:]}
        assert session.statistics().acks_dropped >= 15


async def test_a_message_too_large_fails_alone(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        large = Outgoing("work.acme.web-1", b"x" * (2 << 20), "large")
        receipts = await session.publish_all([*work([1]), large, *work([2])], within_secs=5)
        assert [receipt.stored for receipt in receipts] == [True, False, True]
        assert "2097" in receipts[1].error
        assert "1048576" in receipts[1].error
        assert session.statistics().reconnects == 0
        assert session.connected


async def test_hostile_subjects_and_headers_fail_alone(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        bad = [
            Outgoing("work.a b", b"", "1"),
            Outgoing("work.a\r\nPUB x 0\r\n", b"", "2"),
            Outgoing("", b"", "3"),
            Outgoing("work.a", b"", "4", {"Bad: name": "x"}),
            Outgoing("work.a", b"", "5", {"X": "4\r\nY: y"}),
        ]
        receipts = await session.publish_all([*bad, *work([1])], within_secs=5)
        assert [receipt.stored for receipt in receipts] == [False] * 5 + [True]
        assert all(receipt.permanent for receipt in receipts[:-1])
        assert not session.publish_core("a b", b"")
        assert session.publish_core("heartbeat.a.b", b"alive")


async def test_a_hostile_message_id_travels_as_its_digest(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        odd = Outgoing("work.acme.web-1", b"x", "4\r\nX: y", {"Y": "z"})
        first, again = [(await session.publish_all([odd], within_secs=5))[0] for _ in range(2)]
        assert (first.stored, first.duplicate, again.duplicate) == (True, False, True)
        async with session.consume(WORKER) as channel:
            (found,) = await take(channel, 1)
            session.ack([found])
        assert found.message_id == message_id_text(odd.message_id)
        assert len(found.message_id) == 64


async def test_a_subject_that_no_stream_takes_is_said_at_once(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        (receipt,) = await session.publish_all([Outgoing("nowhere", b"", "1")], within_secs=20)
        assert "no stream" in receipt.error


async def test_without_a_connection_receipts_say_so(nats_server: EmbeddedServer) -> None:
    session = session_for(nats_server)
    (receipt,) = await session.publish_all(work([1]), within_secs=5)
    assert (receipt.stored, receipt.error) == (False, f"not connected to {nats_server.url}")
    assert not session.publish_core("x", b"")
    assert await session.publish_all([], within_secs=1) == []


async def test_a_nak_brings_it_again_after_its_delay(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session, consumer=PATIENT)
        await session.publish_all(work([1, 2]), within_secs=5)
        async with session.consume(WORKER) as channel:
            first, second = await take(channel, 2)
            session.nak([first], delay_secs=0.6)
            session.nak([second])
            began = trio.current_time()
            again = await take(channel, 2)
            assert trio.current_time() - began >= 0.5
            assert [(each.message_id, each.deliveries) for each in again] == [
                ("id-2", 2),
                ("id-1", 2),
            ]


async def test_a_terminated_message_never_comes_again(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        await session.publish_all(work([1, 2]), within_secs=5)
        async with session.consume(WORKER) as channel:
            first, _ = await take(channel, 2)
            session.term([first])
            again = await take(channel, 2)  # the other one, twice
        assert {each.message_id for each in again} == {"id-2"}


async def test_work_in_progress_does_not_come_again(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        await session.publish_all(work([1]), within_secs=5)
        async with session.consume(WORKER) as channel:
            taken = await take(channel, 1)
            with trio.move_on_after(1.7):
                while True:
                    session.working(taken)
                    with trio.move_on_after(0.3):
                        pytest.fail(f"came again: {await channel.receive()}")


async def test_what_waits_in_the_feed_is_kept_in_progress(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        waits = Consumer("worker", "WORK", ack_wait_secs=1.5)
        await make_work(session, consumer=waits)
        await session.publish_all(work([1, 2]), within_secs=5)
        async with session.consume(waits) as channel:
            await trio.sleep(2.5)
            found = await take(channel, 2)
        assert [each.deliveries for each in found] == [1, 1]


async def test_what_a_closed_feed_held_comes_at_once_to_another(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        await make_work(session, consumer=PATIENT)
        await session.publish_all(work(range(10)), within_secs=5)
        async with session.consume(WORKER, batch=2) as channel:
            taken = await channel.receive()
            session.nak(taken)
        async with session.consume(WORKER) as channel:
            found = await take(channel, 10)
        assert {each.message_id for each in found} == {f"id-{n}" for n in range(10)}


async def test_a_message_larger_than_asked_for_still_comes(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        for number, size in enumerate((10, 10, 100_000, 10)):
            await session.publish_all(work([number], size=size), within_secs=5)
        async with session.consume(WORKER, batch=3, max_bytes=1000) as channel:
            found = await take(channel, 4)
        assert [each.message_id for each in found] == [f"id-{n}" for n in range(4)]


async def test_what_failed_five_times_goes_to_the_dead_letters(
    nats_server: EmbeddedServer,
) -> None:
    dead = Consumer("reader", "DEAD_LETTER")
    async with connected(nats_server) as session:
        await make_work(session, consumer=PATIENT)
        await ensure(session, streams=(), consumers=(dead,))
        largest = (1 << 20) - 100
        await session.publish_all(
            [*work([1]), Outgoing("work.acme.web-2", b"y" * largest, "poison")], within_secs=5
        )
        counts: list[int] = []
        async with session.consume(WORKER) as channel, session.consume(dead) as letters:
            with capture_logs() as logs:
                while not session.statistics().dead_lettered:
                    with trio.move_on_after(0.2):
                        for each in await channel.receive():
                            if each.message_id == "poison":
                                counts.append(each.deliveries)
                                session.nak([each])
                            else:
                                session.ack([each])
            (letter,) = await take(letters, 1)
        assert counts == [1, 2, 3, 4, 5]
        assert letter.subject == "deadletter.worker.acme.web-2"
        assert letter.message_id == "WORK-2-worker"
        assert letter.payload.startswith(b"yyyy")
        assert [each["subject"] for each in logs] == ["work.acme.web-2"]


async def test_whoever_buries_himself_gets_the_sixth_delivery(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        await session.publish_all(work([1]), within_secs=5)
        async with session.consume(WORKER, deadletter=False) as channel:
            for delivery in range(1, 8):
                (each,) = await take(channel, 1)
                assert each.deliveries == delivery
                session.nak([each])


async def test_a_broker_that_stops_answering_is_noticed(nats_server: EmbeddedServer) -> None:
    with capture_logs() as logs:
        async with connected(nats_server, ping_secs=0.2) as session:
            await make_work(session)
            os.kill(nats_server.pid, signal.SIGSTOP)
            # More than the sockets hold: closing must not wait until it is sent.
            receipts = await session.publish_all(work(range(40), size=1 << 19), within_secs=0.3)
            assert {receipt.error for receipt in receipts} == {"no ack within 0.3 s"}
            await until(lambda: not session.connected)
            os.kill(nats_server.pid, signal.SIGCONT)
            with trio.fail_after(30):
                await session.wait_connected()
            await publish_until_stored(session, work(range(40), size=1 << 19), within_secs=10)
    events = [each["event"] for each in logs]
    assert events.count("broker connected") == 2
    assert events.count("broker lost") == 1


async def test_a_broker_that_comes_late_is_awaited(nats_server: EmbeddedServer) -> None:
    await nats_server.stop()
    session = session_for(nats_server)
    async with open_loop(), trio.open_nursery() as nursery:
        with capture_logs() as logs:
            nursery.start_soon(session.run)
            await trio.sleep(0.5)
            await nats_server.start()
            with trio.fail_after(20):
                await session.wait_connected()
        nursery.cancel_scope.cancel()
    events = [each["event"] for each in logs if "url" in each and "folder" not in each]
    assert events == ["broker cannot be reached", "broker connected"]


async def test_a_consumer_that_is_not_there_is_said(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "EXPIRES_SECS", 0.2)
    monkeypatch.setattr(feed, "OVERDUE_SECS", 0.2)
    async with connected(nats_server) as session:
        with capture_logs() as logs:
            async with session.consume(WORKER) as channel:
                await until(lambda: bool(logs))
                await make_work(session)
                await session.publish_all(work([1]), within_secs=5)
                await take(channel, 1)
    assert "is the consumer there?" in logs[0]["reason"]
    assert (logs[0]["stream"], logs[0]["consumer"]) == ("WORK", "worker")


async def test_two_sessions_share_a_consumers_work(nats_server: EmbeddedServer) -> None:
    one, two = session_for(nats_server), session_for(nats_server, name="other")
    async with running(one, two):
        await make_work(one, consumer=PATIENT)
        async with one.consume(WORKER, batch=5) as left, two.consume(WORKER, batch=5) as right:
            found: list[str] = []
            with trio.fail_after(20):
                for number in range(0, 40, 10):
                    await one.publish_all(work(range(number, number + 10)), within_secs=5)
                while len(found) < 40:
                    for session, channel in ((one, left), (two, right)):
                        with trio.move_on_after(0.1):
                            deliveries = await channel.receive()
                            session.ack(deliveries)
                            found += [each.message_id for each in deliveries]
        assert sorted(found) == sorted(f"id-{n}" for n in range(40))
        assert one.statistics().delivered
        assert two.statistics().delivered


async def test_acks_given_just_before_the_end_arrive(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        await session.publish_all(work(range(100)), within_secs=5)
        async with session.consume(WORKER) as channel:
            session.ack(await take(channel, 100))
    async with connected(nats_server) as session:
        await session.publish_all(work([100]), within_secs=5)
        async with session.consume(WORKER) as channel:
            with trio.move_on_after(2):
                while True:
                    deliveries = await channel.receive()
                    session.ack(deliveries)
                    assert [each.message_id for each in deliveries] == ["id-100"]


async def test_cancelled_publishing_leaves_the_session_usable(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.publish_all(work(range(600)), within_secs=5)
        assert scope.cancelled_caught
        receipts = await session.publish_all(work(range(600)), within_secs=10)
        assert all(receipt.stored for receipt in receipts)
        statistics = session.statistics()
        assert statistics.published == statistics.acked + statistics.failed
