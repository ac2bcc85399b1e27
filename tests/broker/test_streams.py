"""Streams and consumers, made and verified on a real broker."""

import dataclasses
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.broker.kit import WORK, WORKER, connected, make_work, publish_until_stored, take, work
from transport.errors import StreamMismatch, Unreachable
from transport.server import EmbeddedServer
from transport.session import Outgoing, Session
from transport.streams import (
    AGENT_MAX_MESSAGES,
    ALERT_WRITER,
    DETECTION,
    INGEST,
    INVALID_WRITER,
    RAW_MAX_BYTES,
    STREAMS,
    TELEMETRY_RAW,
    TELEMETRY_WRITER,
    ensure,
    make_room,
)

CONSUMERS = (INGEST, TELEMETRY_WRITER, DETECTION, ALERT_WRITER, INVALID_WRITER)
SMALL = dataclasses.replace(WORK, max_bytes=100_000)


async def api(session: Session, path: str, body: Any = None) -> dict[str, Any]:
    payload = b"" if body is None else msgspec.json.encode(body)
    answer = await session.request(f"$JS.API.{path}", payload, within_secs=5)
    found: dict[str, Any] = msgspec.json.decode(answer)
    assert "error" not in found, found
    return found


async def test_all_are_made_as_documented_and_may_be_there_before(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        for _ in range(2):
            await ensure(session, consumers=CONSUMERS)
        retention = {}
        for stream in STREAMS:
            config = (await api(session, f"STREAM.INFO.{stream.name}"))["config"]
            retention[stream.name] = (config.get("subjects"), config["max_age"] // 3600 // 10**9)
            assert (config["storage"], config["discard"]) == ("file", "new")
            assert config["duplicate_window"] == 120 * 10**9
            assert config["retention"] == "limits"
        assert retention == {
            "TELEMETRY_RAW": (["telemetry.raw.*.*"], 24),
            "TELEMETRY_CANONICAL": (["telemetry.accepted.*.*"], 24),
            "TELEMETRY_DETECTION": (None, 24),
            "ALERTS": (["alerts.*.*"], 168),
            "TELEMETRY_INVALID": (["telemetry.invalid.*.*"], 168),
            "DEAD_LETTER": (["deadletter.*.*.*"], 168),
        }
        for consumer in CONSUMERS:
            if consumer.partitions:
                continue
            path = f"CONSUMER.INFO.{consumer.stream}.{consumer.durable}"
            config = (await api(session, path))["config"]
            assert (config["ack_policy"], config["max_deliver"]) == ("explicit", -1)
            assert config["ack_wait"] == 30 * 10**9
            pending = 20_000 if consumer.durable in ("ingest", "alert-writer") else 1000
            assert config["max_ack_pending"] == pending


async def test_what_can_be_changed_is_changed_and_a_chosen_size_stays(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        await make_work(session)
        await session.publish_all(work([1]), within_secs=5)
        config = (await api(session, "STREAM.INFO.WORK"))["config"]
        config |= {"max_age": 10**9 * 7200, "max_bytes": 32 << 20, "discard": "old"}
        await api(session, "STREAM.UPDATE.WORK", config)
        changed = dataclasses.replace(WORKER, ack_wait_secs=7.0, max_ack_pending=3)
        await ensure(session, streams=(WORK,), consumers=(changed,))
        info = await api(session, "STREAM.INFO.WORK")
        assert info["config"]["max_age"] == 3600 * 10**9
        assert info["config"]["discard"] == "new"
        assert info["config"]["max_bytes"] == 32 << 20
        assert info["state"]["messages"] == 1
        found = (await api(session, "CONSUMER.INFO.WORK.worker"))["config"]
        assert (found["ack_wait"], found["max_ack_pending"]) == (7 * 10**9, 3)


@pytest.mark.parametrize(("key", "value"), [("storage", "memory"), ("retention", "workqueue")])
async def test_a_stream_of_another_kind_is_named(
    nats_server: EmbeddedServer, key: str, value: str
) -> None:
    async with connected(nats_server) as session:
        config = {"name": "WORK", "subjects": ["work.>"], "storage": "file", key: value}
        await api(session, "STREAM.CREATE.WORK", config)
        with pytest.raises(StreamMismatch, match=f"stream WORK .*{key} = '{value}'"):
            await ensure(session, streams=(WORK,))


async def test_a_consumer_of_another_kind_is_named(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=(WORK,))
        config = {"durable_name": "worker", "ack_policy": "none"}
        body = {"stream_name": "WORK", "config": config}
        await api(session, "CONSUMER.DURABLE.CREATE.WORK.worker", body)
        with pytest.raises(StreamMismatch, match=r"consumer worker of stream WORK .*ack_policy"):
            await ensure(session, streams=(), consumers=(WORKER,))


async def test_a_subject_taken_by_another_stream_is_named(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=(dataclasses.replace(WORK, name="OTHER"),))
        with pytest.raises(StreamMismatch, match=r"stream WORK: .*overlap"):
            await ensure(session, streams=(WORK,))


async def test_more_copies_than_brokers_are_refused(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        with pytest.raises(StreamMismatch, match=r"stream WORK: .*replicas"):
            await ensure(session, streams=(WORK,), replicas=3)


async def test_without_a_connection_it_is_unreachable(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        pass
    with pytest.raises(Unreachable, match="not connected"):
        await ensure(session, streams=(WORK,))


async def test_a_full_stream_refuses_and_what_was_read_makes_room(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=(SMALL,), consumers=(WORKER,))
        receipts = await session.publish_all(work(range(100), size=2000), within_secs=5)
        stored = sum(receipt.stored for receipt in receipts)
        assert 30 < stored < 50
        assert {receipt.error for receipt in receipts if not receipt.stored} == {
            "maximum bytes exceeded (10077)"
        }
        with capture_logs() as logs:
            assert await make_room(session, (SMALL,)) == 0
        assert (logs[0]["stream"], logs[0]["consumer"]) == ("WORK", "worker")
        async with session.consume(WORKER) as channel:
            session.ack(await take(channel, stored))
            await session.request("$JS.API.INFO", b"", within_secs=5)
        assert await make_room(session, (SMALL,)) == int(stored * 0.3)
        assert await make_room(session, (SMALL,)) == 0
        (again,) = await session.publish_all(work([100], size=2000), within_secs=5)
        assert again.stored


async def test_room_is_not_made_while_the_reader_is_missing(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=(SMALL,))
        await session.publish_all(work(range(100), size=2000), within_secs=5)
        with capture_logs() as logs:
            assert await make_room(session, (SMALL,)) == 0
        assert logs[0]["event"] == "stream is nearly full and not read"


async def test_streams_of_before_get_their_subjects_and_lose_nothing(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        config = {"name": "TELEMETRY_RAW", "subjects": ["telemetry.raw.>"], "storage": "file"}
        await api(session, "STREAM.CREATE.TELEMETRY_RAW", config | {"discard": "new"})
        one = [
            Outgoing("telemetry.raw.acme.web-1", b"{}", f"m-{number}")
            for number in range(AGENT_MAX_MESSAGES + 1)
        ]
        await publish_until_stored(session, [*one, Outgoing("telemetry.raw.odd", b"{}", "odd")])
        await ensure(session, streams=(TELEMETRY_RAW,), consumers=(INGEST,))
        info = await api(session, "STREAM.INFO.TELEMETRY_RAW")
        assert info["config"]["subjects"] == ["telemetry.raw.*.*"]
        assert info["state"]["messages"] == AGENT_MAX_MESSAGES + 2
        async with session.consume(INGEST) as channel:
            session.ack(await take(channel, AGENT_MAX_MESSAGES + 2))
            await session.request("$JS.API.INFO", b"", within_secs=5)
        assert await make_room(session, (TELEMETRY_RAW,)) == AGENT_MAX_MESSAGES + 2
        await ensure(session, streams=(TELEMETRY_RAW,))
        config = (await api(session, "STREAM.INFO.TELEMETRY_RAW"))["config"]
        assert config["max_msgs_per_subject"] == AGENT_MAX_MESSAGES


async def test_one_agent_fills_its_share_and_nobody_elses(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=(TELEMETRY_RAW,), consumers=(INGEST,))
        loud = [
            Outgoing("telemetry.raw.acme.loud", b"{}", f"loud-{number}")
            for number in range(AGENT_MAX_MESSAGES + 10)
        ]
        receipts = await session.publish_all(loud, within_secs=20)
        refused = [receipt for receipt in receipts if not receipt.stored]
        assert len(refused) == 10
        assert not any(receipt.permanent for receipt in refused)
        assert all(receipt.subject_full for receipt in refused)
        assert "maximum messages per subject" in refused[0].error
        quiet = Outgoing("telemetry.raw.acme.quiet", b"{}", "quiet")
        assert (await session.publish_all([quiet], within_secs=5))[0].stored
        async with session.consume(INGEST) as channel:
            session.ack(await take(channel, AGENT_MAX_MESSAGES + 1))
            await session.request("$JS.API.INFO", b"", within_secs=5)
        await make_room(session, (TELEMETRY_RAW,))
        again = await session.publish_all(loud[-10:], within_secs=5)
        assert all(receipt.stored for receipt in again)


async def test_what_can_never_be_stored_is_told_from_what_cannot_now(
    nats_server: EmbeddedServer,
) -> None:
    async with connected(nats_server) as session:
        await ensure(session, streams=(TELEMETRY_RAW,))
        where = "telemetry.raw.acme.web-1"
        messages = [
            Outgoing(where, b"x" * (RAW_MAX_BYTES + 1), "large for the stream"),
            Outgoing(where, b"x" * (2 << 20), "large for the broker"),
            Outgoing("telemetry.raw.acme.e\u00a0l", b"{}", "no subject"),
            Outgoing(where, b"{}", "no header", {"X": "a\x01b"}),
            Outgoing("elsewhere.acme.web-1", b"{}", "no stream"),
            Outgoing(where, b"{}", "odd \x01 id"),
        ]
        receipts = await session.publish_all(messages, within_secs=5)
        assert [receipt.stored for receipt in receipts] == [False] * 5 + [True]
        assert [receipt.permanent for receipt in receipts] == [True] * 4 + [False] * 2
