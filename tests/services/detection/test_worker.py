"""One or two workers in this process, with a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from actors.runtime.testing import run_actor
from services.claims import Claims
from services.detection.agents import AgentCounts
from services.detection.leases import Leases
from services.detection.memory_state import MemoryState
from services.detection.processing import WorkCounts
from services.detection.reach import Reach
from services.detection.redis_state import RedisState
from services.detection.state import State, Write, Written
from services.detection.worker import Worker
from tests.broker.kit import connected, until
from tests.services.detection.cast import (
    EVENTS,
    POISON,
    POISON_EVENT,
    UNMAKEABLE,
    batch_of,
    expected,
    mail,
    mail_of,
    make_chain,
)
from tests.services.detection.redis_server import RedisServer
from transport.messages import (
    Alert,
    CanonicalSingle,
    Counters,
    ExecV1,
    Host,
    Invalid,
    ProbeCounts,
    encode,
)
from transport.server import EmbeddedServer
from transport.session import Outgoing, Session
from transport.streams import (
    ALERT_WRITER,
    DETECTION,
    INVALID_WRITER,
    PARTITIONS,
    Consumer,
    ensure,
    used_by,
)

DEADLINE_SECS = 60.0
READERS = (ALERT_WRITER, INVALID_WRITER)


class Hand:
    """A worker and what it shares with nobody."""

    def __init__(
        self, session: Session, state: State, *, name: str = "one", max_agents: int = 100
    ) -> None:
        self.reach = Reach(state, shown="test")
        self.leases = Leases(self.reach, partitions=PARTITIONS, worker=name)
        self.claims = Claims(session)
        self.counts = WorkCounts()
        self.engines = AgentCounts()
        ready = trio.Event()
        ready.set()
        self.worker = Worker(
            session=session,
            reach=self.reach,
            leases=self.leases,
            consumer=DETECTION,
            claims=self.claims,
            make=make_chain,
            batch=16,
            max_agents=max_agents,
            counts=self.counts,
            agent_counts=self.engines,
            ready=ready,
        )

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        async with run_actor(self.worker, within_secs=10):
            yield

    def holds(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.leases.tokens) == count


@asynccontextmanager
async def a_broker(server: EmbeddedServer) -> AsyncIterator[Session]:
    """A session of it, with the streams."""
    async with connected(server) as session:
        await ensure(session, streams=used_by((DETECTION, *READERS)), consumers=READERS)
        yield session


async def publish(session: Session, messages: Sequence[Outgoing]) -> None:
    receipts = await session.publish_all(messages, within_secs=DEADLINE_SECS)
    assert all(receipt.stored for receipt in receipts)


async def read(session: Session, consumer: Consumer, count: int) -> list[bytes]:
    """So many messages of a stream, and no more."""
    found: list[bytes] = []
    async with session.consume(consumer) as feed:
        with trio.fail_after(DEADLINE_SECS):
            while len(found) < count:
                deliveries = await feed.receive()
                session.ack(deliveries)
                found += [each.payload for each in deliveries]
        with trio.move_on_after(0.3):
            found += [each.payload for each in await feed.receive()]
    assert len(found) == count
    return found


async def alerts(session: Session, count: int) -> dict[str, list[str]]:
    """Details of so many alerts by agent, as they came."""
    by_agent: dict[str, list[str]] = {}
    for payload in await read(session, ALERT_WRITER, count):
        alert = msgspec.json.decode(payload, type=Alert)
        by_agent.setdefault(alert.agent_id, []).append(alert.detail)
    return by_agent


async def test_what_was_published_before_and_after_the_start_is_detected_in_order(
    nats_server: EmbeddedServer,
) -> None:
    agents = [f"web-{number}" for number in range(20)]
    async with a_broker(nats_server) as session:
        await publish(session, [*mail_of(range(10), agents)])
        hand = Hand(session, MemoryState())
        async with hand.working():
            await publish(session, [*mail_of(range(10, 20), agents)])
            found = await alerts(session, 400)
        assert found == {agent: expected(range(20), agent=agent) for agent in agents}
        assert (hand.counts.messages, hand.counts.events) == (400, 400 * EVENTS)
        assert (hand.counts.alerts, hand.counts.repeats, len(hand.claims)) == (400, 0, 0)
        assert hand.leases.tokens == {}, "given back"
        info = await session.request(
            "$JS.API.CONSUMER.LIST.TELEMETRY_DETECTION", b"", within_secs=5
        )
        consumers = msgspec.json.decode(info)["consumers"]
        assert len(consumers) == PARTITIONS
        assert sum(each["num_ack_pending"] + each["num_pending"] for each in consumers) == 0


async def test_an_owner_goes_on_where_the_one_before_stopped(nats_server: EmbeddedServer) -> None:
    state = MemoryState()
    async with a_broker(nats_server) as session:
        for turn in range(3):
            async with Hand(session, state, name=f"w{turn}").working():
                await publish(session, [*mail_of(range(turn * 40, turn * 40 + 40))])
                found = await alerts(session, 40)
            assert found["web-1"] == expected(range(120))[turn * 40 : turn * 40 + 40]


async def test_engines_that_made_room_are_restored(nats_server: EmbeddedServer) -> None:
    agents = [f"web-{number}" for number in range(8)]
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState(), max_agents=1)
        async with hand.working():
            await publish(session, [*mail_of(range(5), agents)])
            first = await alerts(session, 40)
            await publish(session, [*mail_of(range(5, 10), agents)])
            then = await alerts(session, 40)
        wanted = {agent: expected(range(10), agent=agent) for agent in agents}
        assert {agent: first[agent] + then[agent] for agent in agents} == wanted
        assert hand.engines.evicted > 0
        assert hand.engines.restored > 0


async def test_a_batch_that_comes_again_is_not_processed_again(nats_server: EmbeddedServer) -> None:
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState())
        async with hand.working():
            await publish(session, mail(batch_of(0), batch_of(1)))
            await publish(session, mail(batch_of(0), batch_of(1), suffix="again"))
            await publish(session, mail(batch_of(3), batch_of(2)))
            found = await alerts(session, 4)
            await until(lambda: hand.counts.messages == 6)
        assert found["web-1"] == expected([0, 1, 3, 2])
        assert (hand.counts.repeats, hand.counts.late) == (2, 1)


async def test_a_bad_message_goes_to_the_invalid_lane_and_the_worker_lives(
    nats_server: EmbeddedServer,
) -> None:
    bad = batch_of(2, counters=Counters(probes={POISON: ProbeCounts()}))
    liar = Outgoing("telemetry.accepted.acme.web-1", encode(batch_of(3, "web-2")), "liar")
    garbage = Outgoing("telemetry.accepted.acme.web-1", b"{", "garbage")
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState())
        async with hand.working():
            good = [mail(batch_of(number))[0] for number in (0, 1, 4, 5)]
            await publish(session, [*good[:2], *mail(bad), liar, garbage, *good[2:]])
            found = await alerts(session, 4)
            records = [
                msgspec.json.decode(each, type=Invalid)
                for each in await read(session, INVALID_WRITER, 3)
            ]
        assert found["web-1"] == expected([0, 1, 4, 5]), "half of a bad batch leaves no trace"
        assert sorted(each.reason for each in records) == ["engine_failed", "invalid", "invalid"]
        assert {each.agent_id for each in records} == {"web-1"}
        assert hand.counts.invalid == 3


async def test_a_bad_event_goes_to_the_invalid_lane_alone(nats_server: EmbeddedServer) -> None:
    bad = batch_of(1, counters=Counters(probes={POISON_EVENT: ProbeCounts()}))
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState())
        async with hand.working():
            await publish(session, mail(batch_of(0), bad, batch_of(2)))
            found = await alerts(session, 3)
            (raw,) = await read(session, INVALID_WRITER, 1)
        record = msgspec.json.decode(raw, type=Invalid)
        assert list(map(len, found.values())) == [3]
        assert (record.reason, record.detail) == ("engine_failed", "this event is bad")
        assert record.payload == encode(bad.events[1]).decode()
        assert (hand.counts.poisoned, hand.counts.invalid) == (1, 0)


async def test_an_agent_of_which_no_engine_can_be_made_does_not_end_the_worker(
    nats_server: EmbeddedServer,
) -> None:
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState())
        async with hand.working():
            bad = mail(batch_of(0, "web-2", boot=UNMAKEABLE))
            await publish(session, [*mail(batch_of(0)), *bad, *mail(batch_of(1))])
            assert await alerts(session, 2) == {"web-1": expected([0, 1])}
            (record,) = await read(session, INVALID_WRITER, 1)
        assert msgspec.json.decode(record, type=Invalid).reason == "engine_failed"


async def test_a_new_boot_is_a_new_engine_and_the_old_one_stays_for_the_late(
    nats_server: EmbeddedServer,
) -> None:
    async with a_broker(nats_server) as session:
        async with Hand(session, MemoryState()).working():
            order = [(0, "a"), (1, "a"), (0, "b"), (2, "a"), (1, "b")]
            await publish(session, mail(*(batch_of(number, boot=boot) for number, boot in order)))
            found = await alerts(session, 5)
        of_a, of_b = expected(range(3), boot="a"), expected(range(2), boot="b")
        assert found["web-1"] == [of_a[0], of_a[1], of_b[0], of_a[2], of_b[1]]


async def test_a_boot_in_every_message_makes_few_engines_and_costs_others_nothing(
    nats_server: EmbeddedServer,
) -> None:
    async with a_broker(nats_server) as session:
        evil = [batch_of(0, "evil"), *(batch_of(n, "evil", boot=f"b{n}") for n in range(1, 200))]
        good = [batch_of(number, "good") for number in range(20)]
        hand = Hand(session, MemoryState())
        async with hand.working():
            await publish(session, mail(*evil, *good))
            await until(lambda: hand.counts.messages == 220, secs=DEADLINE_SECS)
        # Of those that came together with the first, one is free too.
        made = hand.engines.made - 1
        assert 1 + 16 <= made <= 2 + 16
        found = await alerts(session, made + 20)
        assert found["good"] == expected(range(20), agent="good")
        refused = await read(session, INVALID_WRITER, 200 - made)
        reasons = {msgspec.json.decode(each, type=Invalid).reason for each in refused}
        assert reasons == {"too_many_boots"}


@pytest.mark.parametrize("where", ["telemetry.accepted.acme.e\u2007l"])
async def test_a_message_of_nobody_is_recorded_and_the_worker_lives(
    nats_server: EmbeddedServer, where: str
) -> None:
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState())
        async with hand.working():
            assert session._link is not None
            # Past our own check, as a stranger's reply subject comes.
            session._link.wire._put(f"PUB {where} 2\r\n{{}}\r\n".encode())
            await publish(session, mail(batch_of(0)))
            await until(lambda: hand.counts.messages == 2, secs=DEADLINE_SECS)
        (refused,) = await read(session, INVALID_WRITER, 1)
        assert msgspec.json.decode(refused, type=Invalid).agent_id == "odd"
        assert await alerts(session, 1) == {"web-1": expected([0])}


async def test_a_single_is_counted_and_acked(nats_server: EmbeddedServer) -> None:
    single = CanonicalSingle(
        event_id="1",
        agent_id="web-1",
        tenant_id="acme",
        host=Host("web"),
        observed_at_unix_ms=1,
        event=ExecV1(1, 1, 0, "sh", "/bin/sh", ()),
        received_at_unix_ms=2,
    )
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState())
        async with hand.working():
            message = Outgoing("telemetry.accepted.acme.web-1", encode(single), "1")
            await publish(session, [message])
            await until(lambda: hand.counts.singles == 1)
        assert len(hand.claims) == 0


async def test_a_broker_that_restarts_costs_nothing(nats_server: EmbeddedServer) -> None:
    agents = [f"web-{number}" for number in range(6)]
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState())
        async with hand.working():
            await until(hand.holds(PARTITIONS))
            await publish(session, [*mail_of(range(20), agents)])
            nats_server.kill()
            await nats_server.wait()
            await nats_server.start()
            with trio.fail_after(DEADLINE_SECS):
                await session.wait_connected()
            await publish(session, [*mail_of(range(20, 40), agents)])
            found = await alerts(session, 240)
        assert found == {agent: expected(range(40), agent=agent) for agent in agents}


async def test_a_stream_that_was_removed_and_made_again_is_read(
    nats_server: EmbeddedServer,
) -> None:
    async with a_broker(nats_server) as session:
        hand = Hand(session, MemoryState())
        async with hand.working():
            await publish(session, mail(batch_of(0)))
            assert await alerts(session, 1) == {"web-1": expected([0])}
            for name in ("TELEMETRY_DETECTION", "TELEMETRY_CANONICAL"):
                await session.request(f"$JS.API.STREAM.DELETE.{name}", b"", within_secs=5)
            await ensure(session, streams=used_by((DETECTION,)))
            await publish(session, mail(batch_of(1)))
            assert await alerts(session, 1) == {"web-1": expected([0, 1])[1:]}


class Thief(MemoryState):
    """A state in which, before the first write of a worker, somebody else takes its partition."""

    stolen = False

    async def save(self, writes: Sequence[Write]) -> Sequence[Written]:
        if not self.stolen:
            self.stolen = True
            for write in writes:
                await self.give_back("one", {write.partition: write.token}, leaving=False)
                assert await self.take("thief", [write.partition], above=0)
        return await super().save(writes)


async def test_what_was_done_for_a_lost_partition_is_not_acked_and_is_done_again(
    nats_server: EmbeddedServer,
) -> None:
    async with a_broker(nats_server) as session:
        hand = Hand(session, Thief())
        async with hand.working():
            await publish(session, mail(batch_of(0)))
            await until(lambda: hand.engines.fenced == 1)
            assert hand.claims.acked == 0
            await until(hand.holds(PARTITIONS - 1))
            await until(hand.holds(PARTITIONS))  # the thief is not heard of
            await publish(session, mail(batch_of(1)))
            await until(lambda: hand.claims.acked == 2)
            assert await alerts(session, 2) == {"web-1": expected([0, 1])}
        assert hand.counts.alerts == 3, "the first twice, under one id"


async def test_two_workers_share_and_the_one_that_stays_takes_all(
    nats_server: EmbeddedServer, redis_server: RedisServer
) -> None:
    agents = [f"web-{number}" for number in range(12)]

    def state() -> State:
        return RedisState(redis_server.url, prefix="test:")

    async with a_broker(nats_server) as session, connected(nats_server, name="two") as other:
        one, two = Hand(session, state()), Hand(other, state(), name="two")
        async with one.working():
            await until(one.holds(PARTITIONS))
            await publish(session, [*mail_of(range(10), agents)])
            async with two.working():
                await until(lambda: one.holds(8)() and two.holds(8)())
                assert not one.leases.tokens.keys() & two.leases.tokens.keys()
                await publish(session, [*mail_of(range(10, 20), agents)])
                await until(lambda: one.counts.messages + two.counts.messages == 240)
                assert two.counts.messages > 0
            await until(one.holds(PARTITIONS))
            await publish(session, [*mail_of(range(20, 30), agents)])
            found = await alerts(session, 360)
        assert found == {agent: expected(range(30), agent=agent) for agent in agents}


async def test_while_redis_is_away_nothing_is_acked_and_when_it_is_back_nothing_is_missing(
    nats_server: EmbeddedServer, redis_server: RedisServer
) -> None:
    async with a_broker(nats_server) as session:
        hand = Hand(session, RedisState(redis_server.url, prefix="test:"))
        async with hand.working():
            await publish(session, mail(batch_of(0)))
            assert await alerts(session, 1) == {"web-1": expected([0])}
            await until(lambda: hand.claims.acked == 1)
            redis_server.kill()
            await publish(session, mail(batch_of(1), batch_of(2)))
            await until(lambda: not hand.reach.available)
            with trio.move_on_after(2):
                await until(lambda: hand.claims.acked > 1)
            assert hand.claims.acked == 1
            redis_server.start()
            await until(lambda: hand.claims.acked == 3)
            assert hand.reach.available
            assert hand.engines.missing > 0, "it came back empty"
            await publish(session, mail(batch_of(3)))
            await until(lambda: hand.claims.acked == 4)
            assert await alerts(session, 3) == {"web-1": expected(range(4))[1:]}
        async with Hand(session, RedisState(redis_server.url, prefix="test:")).working():
            await publish(session, mail(batch_of(4)))
            assert await alerts(session, 1) == {"web-1": expected(range(5))[4:]}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_it_stops_in_time_while_redis_is_away(
    nats_server: EmbeddedServer, redis_server: RedisServer, when: str
) -> None:
    async with a_broker(nats_server) as session:
        if when == "before":
            redis_server.kill()
        hand = Hand(session, RedisState(redis_server.url, prefix="test:"))
        async with hand.working():
            if when == "after":
                await until(hand.holds(PARTITIONS))
                redis_server.kill()
            await publish(session, mail(batch_of(0)))
            await until(lambda: not hand.reach.available)
