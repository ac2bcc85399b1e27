"""The publisher with a real spool; only the broker is made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors.agent.batches import Sender
from actors.agent.messages import Status, Telemetry
from actors.agent.publisher import Publisher
from actors.agent.sensor import NoSensor
from actors.agent.settings import PublishSettings
from actors.agent.shipping import Shipping
from actors.agent.spooling import Publishing, Spooling
from actors.detection.events import LineageProcess, SeedEvent
from actors.runtime import ChildSpec, Topology, run_topology
from actors.runtime.testing import run_actor
from tests.broker.kit import until
from tests.faults.emitter import an_alert
from tests.services.cast import Notes
from tests.services.messages import EPOCH, HOST, a_seed, an_event
from transport.messages import Alert, Batch, Event, Evicted, Gap, Heartbeat
from transport.publishing import Outgoing
from transport.spool import Spool
from transport.spool_errors import SpoolCorrupt, SpoolFull
from transport.subjects import Address

LOAD_ID = "00000000000000cc"


class Held(NoSensor):
    """A sensor that notes how far its rings were given back."""

    load_id = LOAD_ID
    live = True

    def __init__(self) -> None:
        self.released: dict[str, int] = {}
        self.lost = 0
        self.seeded: Sequence[SeedEvent] = ()

    def seeds(self) -> Sequence[SeedEvent]:
        return self.seeded

    def counters(self) -> dict[str, dict[str, int]]:
        none = dict.fromkeys(("seen", "delivered", "filtered", "suppressed"), 0)
        return {"open": {**none, "lost": self.lost}}

    def release(self, positions: Mapping[str, int]) -> None:
        self.released = dict(positions)


class World:
    """A publisher's surroundings."""

    def __init__(
        self,
        folder: Path,
        *,
        takes: Callable[[Outgoing], bool],
        max_bytes: int = 1 << 28,
        seeds: int = 0,
        **more: Any,
    ) -> None:
        self.sensor = Held()
        self.sensor.seeded = [a_seed(number) for number in range(seeds)]
        self.broker = Notes(takes)
        self.folder = folder
        self.shipping = Shipping(
            self.broker.session, lambda: Spool.open(folder, max_bytes=max_bytes)
        )
        publishing = Publishing(
            settings=PublishSettings(**more),
            sender=Sender(
                address=Address("acme", "web-1"),
                host=HOST,
                epoch=EPOCH,
                telemetry_prefix="telemetry.raw",
            ),
            shipping=self.shipping,
            heartbeat_prefix="heartbeat",
            policy_version=lambda: "7",
            start_gaps=[Gap(1, 2, "not_watching")],
            watching_since_unix_ms=None,
        )
        self.work = Spooling(publishing, self.sensor)

    def publisher(self) -> Publisher:
        return Publisher(self.work)

    @property
    def batches(self) -> list[Batch]:
        return [
            msgspec.json.decode(each.payload, type=Batch)
            for each in self.broker.published
            if each.subject == "telemetry.raw.acme.web-1"
        ]

    @property
    def alerts(self) -> list[Alert]:
        return [
            msgspec.json.decode(each.payload, type=Alert)
            for each in self.broker.published
            if each.subject == "alerts.acme.web-1"
        ]

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "spool", takes=lambda _: True)


def sweep(
    first: int, count: int, *, alerts: Sequence[int] = (), read: int | None = None
) -> Telemetry:
    events = [an_event(number) for number in range(first, first + count)]
    position = {"OPEN_EVENTS": 128 * (first + count)}
    raised = [an_alert(an_event(number)) for number in alerts]
    return Telemetry(events, raised, position, first + count if read is None else read)


async def publish(world: World, *told: Telemetry | Status) -> None:
    async with run_actor(world.publisher(), within_secs=10) as stage:
        for message in told:
            await stage.context.mailbox.put(message)
    await world.shipping.close()


async def test_events_arrive_in_order_under_consecutive_numbers(world: World) -> None:
    await publish(world, sweep(0, 700), sweep(700, 30))
    assert world.events == [an_event(number) for number in range(730)]
    expected = 0
    for number, batch in enumerate(world.batches):
        assert (batch.batch_id, batch.first_seq) == (f"{EPOCH}-{number}", expected)
        assert len(batch.events) <= 500
        expected += len(batch.events)
    last = world.batches[-1].counters
    assert (last.read, last.spooled, last.dropped, last.unpublished) == (730, 730, 0, 0)


async def test_rings_are_given_back_only_what_is_spooled(world: World) -> None:
    world.broker.connected = False
    async with run_actor(world.publisher(), within_secs=10) as stage:
        await stage.context.mailbox.put(sweep(0, 600))
        await trio.testing.wait_all_tasks_blocked()
        await until(lambda: bool(world.sensor.released))
        assert world.sensor.released == {"OPEN_EVENTS": 128 * 600}
        marks = world.shipping._spool.marks()
        assert marks is not None
        assert (marks.positions, marks.load_id) == ({"OPEN_EVENTS": 128 * 600}, LOAD_ID)
        world.broker.connected = True
    await world.shipping.close()
    assert len(world.events) == 600


async def test_the_processes_that_ran_before_come_first(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True, seeds=700)
    await publish(world, sweep(0, 30, alerts=[3]))
    assert world.events == [
        *(a_seed(number) for number in range(700)),
        *(an_event(number) for number in range(30)),
    ]
    assert [batch.first_seq for batch in world.batches][:2] == [0, 500]
    assert [alert.event_id for alert in world.alerts] == [f"{EPOCH}-703"]
    last = world.batches[-1].counters
    assert (last.read, last.seeds, last.spooled, last.dropped) == (30, 700, 730, 0)


async def test_the_processes_that_ran_before_are_told_though_nothing_happens(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True, seeds=3)
    async with run_actor(world.publisher(), within_secs=10):
        await until(lambda: len(world.events) == 3)
    await world.shipping.close()


async def test_processes_that_nobody_wants_are_counted_and_not_sent(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True, seeds=9, events=("fork", "exec"))
    await publish(world, sweep(0, 10))
    assert len(world.events) == 4
    last = world.batches[-1].counters
    assert (last.read, last.seeds, last.spooled, last.unpublished) == (10, 9, 4, 15)


async def test_seeds_a_failing_spool_cost_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True, seeds=9)

    def full(*_: Any, **__: Any) -> Any:
        raise SpoolFull("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(Spool, "append", full)
        async with run_actor(world.publisher(), within_secs=10):
            await until(lambda: world.work.pending == 0)
    await publish(world, sweep(0, 10))
    last = world.batches[-1].counters
    assert (last.read, last.seeds, last.spooled, last.dropped) == (10, 9, 10, 9)


async def test_what_is_not_wanted_is_counted_and_not_sent(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True, events=("exec",), alerts=False)
    await publish(world, sweep(0, 100, alerts=[1]))
    assert {type(event).__name__ for event in world.events} == {"ExecEvent"}
    last = world.batches[-1].counters
    assert (last.read, last.spooled, last.unpublished) == (100, 20, 80)
    assert world.alerts == []


async def test_an_alert_names_its_event_and_goes_first(world: World) -> None:
    await publish(world, sweep(0, 10, alerts=[3]))
    (alert,) = world.alerts
    assert alert.event_id == f"{EPOCH}-3"
    assert world.broker.published[0].subject == "alerts.acme.web-1"
    assert alert.evidence == "complete"
    assert world.batches[-1].counters.alerts == 1


async def test_an_alert_that_is_told_again_is_raised_once(world: World) -> None:
    again = msgspec.structs.replace(an_alert(an_event(4)), count=2, first=False)
    first = sweep(0, 10, alerts=[3])
    await publish(world, msgspec.structs.replace(first, alerts=[*first.alerts, again]))
    assert [alert.count for alert in world.alerts] == [1, 2]
    assert world.batches[-1].counters.alerts == 1


async def test_an_alert_leaves_the_agent_with_all_that_detection_says_of_it(world: World) -> None:
    process = LineageProcess(3, 30, 1, 10, "bash")
    told = msgspec.structs.replace(
        an_alert(an_event(3)),
        level="high",
        author="Ann Author",
        references=("https://example.org",),
        lineage=(3, 30),
        count=2,
        processes=(process,),
    )
    await publish(world, Telemetry([an_event(3)], [told], {}, 1))
    (alert,) = world.alerts
    assert (alert.level, alert.author, alert.references) == (
        *("high", "Ann Author"),
        ("https://example.org",),
    )
    assert (alert.lineage, alert.count, alert.processes) == ("3-30", 2, (process,))
    assert (alert.boot_id, alert.source) == (HOST.boot_id, "agent")


async def test_an_alert_after_a_loss_says_so(world: World) -> None:
    async with run_actor(world.publisher(), within_secs=10) as stage:
        await stage.context.mailbox.put(sweep(0, 500))
        await until(lambda: bool(world.batches))
        world.sensor.lost = 7
        late = sweep(500, 1)
        await stage.context.mailbox.put(late)
        await trio.sleep(0.1)
    await world.shipping.close()
    gaps = [gap for batch in world.batches for gap in batch.counters.gaps]
    assert [(gap.reason, gap.events) for gap in gaps] == [
        ("not_watching", None),
        ("lost_in_kernel_open", 7),
    ]


async def test_what_was_lost_on_the_way_to_it_is_counted(world: World) -> None:
    await publish(world, sweep(0, 10), sweep(60, 10, read=70))
    last = world.batches[-1].counters
    assert (last.read, last.spooled, last.dropped) == (70, 20, 50)


async def test_a_crash_neither_repeats_numbers_nor_loses_count(world: World) -> None:
    """A fresh instance goes on where the crashed one stood, in the same epoch."""
    # What breaks it; a sweep's positions are a mapping.
    poison = Telemetry(sweep(500, 100).events, [], None, 600)  # type: ignore[arg-type]

    class Feeder(Publisher):
        emits = (Telemetry,)

        def __init__(self) -> None:
            super().__init__(world.work)

        async def run(self) -> None:
            for message in (sweep(0, 500), poison, sweep(600, 100)):
                await self.context.tell(message)
                await trio.sleep(0.05)

    children = (
        ChildSpec(
            name="feeder", factory=Feeder, emits=(Telemetry,), to=("it",), restart="transient"
        ),
        ChildSpec(name="it", factory=world.publisher, accepts=Publisher.accepts),
    )
    outcome = await run_topology(Topology(name="test", children=children))
    await world.shipping.close()
    assert outcome.statistics["it"].crashes == 1
    assert len({batch.batch_id for batch in world.batches}) == len(world.batches)
    assert world.events == [an_event(number) for number in (*range(500), *range(600, 700))]
    last = world.batches[-1].counters
    assert (last.read, last.spooled, last.dropped) == (700, 600, 100)


async def test_a_spool_that_fails_costs_events_and_not_the_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Spool.append
    failures = [True]

    def full(self: Spool, *args: Any, **more: Any) -> Any:
        if failures:
            failures.pop()
            raise SpoolFull("the disk is full")
        return append(self, *args, **more)

    monkeypatch.setattr(Spool, "append", full)
    await publish(world, sweep(0, 500), sweep(500, 500, alerts=[500]))
    assert world.events == [an_event(number) for number in range(500, 1000)]
    last = world.batches[-1].counters
    assert (last.read, last.spooled, last.dropped) == (1000, 500, 500)
    assert world.batches[0].first_seq == 0


async def test_a_spool_damaged_on_the_way_is_replaced_and_told_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Spool.append
    calls: list[int] = []

    def damaged(self: Spool, *args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise SpoolCorrupt("the file is damaged")
        return append(self, *args, **more)

    monkeypatch.setattr(Spool, "append", damaged)
    await publish(world, sweep(0, 500), sweep(500, 500), sweep(1000, 500))
    assert world.shipping.damaged == 1
    assert world.events[-1] == an_event(1499)
    told = [run for batch in world.batches for run in batch.counters.evicted]
    assert Evicted(EPOCH, 0, 499, "corrupt") in told


async def test_an_error_nobody_foresaw_costs_what_was_in_hand_and_counts_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool, "append", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await publish(world, sweep(0, 500, alerts=[1]))
    monkeypatch.undo()
    await publish(world, sweep(500, 500))
    last = world.batches[-1].counters
    assert (last.read, last.spooled, last.dropped) == (1000, 500, 500)
    assert (last.alerts, last.alerts_dropped) == (1, 1)


async def test_evictions_are_told_until_the_broker_has_heard_of_them(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True, max_bytes=150_000)
    world.broker.connected = False
    async with run_actor(world.publisher(), within_secs=10) as stage:
        for number in range(6):
            await stage.context.mailbox.put(sweep(500 * number, 500))
        await until(lambda: world.sensor.released.get("OPEN_EVENTS") == 128 * 3000)
        assert world.shipping.unreported()
        world.broker.connected = True
        await until(lambda: not world.shipping.unreported())
    await world.shipping.close()
    told = {run for batch in world.batches for run in batch.counters.evicted}
    gone = {seq for run in told for seq in range(run.first_seq, run.last_seq + 1)}
    came = {batch.first_seq + i for batch in world.batches for i in range(len(batch.events))}
    assert gone | came == set(range(3000))
    assert not gone & came


async def test_a_heartbeat_says_how_it_stands(world: World) -> None:
    await publish(world, sweep(0, 20), Status({"probes": {}}))
    (where, payload), *_ = world.broker.shouted
    beat = msgspec.json.decode(payload, type=Heartbeat)
    assert where == "heartbeat.acme.web-1"
    assert (beat.agent_id, beat.policy_version, beat.epoch) == ("web-1", "7", EPOCH)
    assert beat.counters.read == 20
    assert beat.status == {"probes": {}}


async def test_an_agent_to_which_nothing_happens_says_so_with_each_heartbeat(world: World) -> None:
    beats = (Status({}), Status({}))
    await publish(world, sweep(0, 20), *beats, Status({}))
    # One with the events at the first beat, one at each of the others, one at the end.
    assert [len(batch.events) for batch in world.batches] == [20, 0, 0, 0]
    assert [batch.counters.spooled for batch in world.batches] == [20] * 4
    assert [batch.first_seq for batch in world.batches] == [0, 20, 20, 20]


async def test_one_message_the_broker_refuses_does_not_hold_up_the_others(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", takes=lambda each: b'"first_seq":0,' not in each.payload)
    async with run_actor(world.publisher(), within_secs=10) as stage:
        for number in range(4):
            await stage.context.mailbox.put(sweep(500 * number, 500))
        await until(lambda: len(world.events) == 1500)
    await world.shipping.close()


async def test_a_message_the_broker_can_never_take_is_given_up_and_told_of(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True)
    world.broker.never = lambda message: b'"batch_id":"%s-0"' % EPOCH.encode() in message.payload
    async with run_actor(world.publisher(), within_secs=10) as stage:
        await stage.context.mailbox.put(sweep(0, 5))
        await until(lambda: world.shipping.refused == 1)
        await stage.context.mailbox.put(sweep(5, 5))
        await until(lambda: bool(world.batches))
        await stage.context.mailbox.put(sweep(10, 5))
        await until(lambda: any(batch.counters.evicted for batch in world.batches))
    await world.shipping.close()
    told = next(batch.counters.evicted for batch in world.batches if batch.counters.evicted)
    assert told == [Evicted(EPOCH, 0, 4, "refused")]
    assert world.events == [an_event(number) for number in range(5, 15)]


async def test_an_alert_the_broker_can_never_take_is_counted_as_dropped(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True)
    world.broker.never = lambda message: message.subject.startswith("alerts.")
    async with run_actor(world.publisher(), within_secs=10) as stage:
        await stage.context.mailbox.put(sweep(0, 5, alerts=(1,)))
        await until(lambda: world.shipping.refused == 1)
        await stage.context.mailbox.put(sweep(5, 5))
        await stage.context.mailbox.put(sweep(10, 5))
        await until(lambda: any(batch.counters.alerts_dropped for batch in world.batches))
    await world.shipping.close()


async def test_alerts_for_which_there_is_no_room_do_not_hold_up_telemetry(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True)
    world.broker.full = lambda message: message.subject.startswith("alerts.")
    async with run_actor(world.publisher(), within_secs=10) as stage:
        await stage.context.mailbox.put(sweep(0, 70, alerts=range(70)))
        await until(lambda: len(world.events) == 70)
    await world.shipping.close()
    assert world.alerts == []


async def test_telemetry_for_which_there_is_no_room_waits_in_its_order(tmp_path: Path) -> None:
    world = World(tmp_path / "spool", takes=lambda _: True)
    since = trio.current_time()
    world.broker.full = lambda _: trio.current_time() < since + 0.5
    async with run_actor(world.publisher(), within_secs=10) as stage:
        for first in range(0, 2000, 500):
            await stage.context.mailbox.put(sweep(first, 500))
        await until(lambda: len(world.events) == 2000)
    await world.shipping.close()
    assert world.events == [an_event(number) for number in range(2000)]


async def test_without_publishing_it_does_nothing() -> None:
    async with run_actor(Publisher(None)) as stage:
        await stage.context.mailbox.put(sweep(0, 5))
        await stage.context.mailbox.put(Status({}))
