from dataclasses import replace
from pathlib import Path

import pytest

from actors.agent.console import AlertConsole, EventConsole, Stream
from actors.agent.correlator import Correlator
from actors.agent.endpoint import build_topology
from actors.agent.heartbeat import Heartbeat
from actors.agent.kinds import Resources, agent_kinds
from actors.agent.publisher import Publisher
from actors.agent.readers import RingClock, RingReader
from actors.agent.recording import Recorder
from actors.agent.responder import Responder
from actors.agent.sensor import NoSensor
from actors.agent.settings import Settings
from actors.rulefiles import RuleWatcher
from actors.runtime import Actor, TopologyError
from tests.agent.cast import Script, an_exec

CLASSES: dict[str, type[Actor]] = {
    "ring_clock": RingClock,
    "ring_reader": RingReader,
    "correlator": Correlator,
    "responder": Responder,
    "heartbeat": Heartbeat,
    "publisher": Publisher,
    "recorder": Recorder,
    "rule_watcher": RuleWatcher,
    "event_console": EventConsole,
    "alert_console": AlertConsole,
}


def resources() -> Resources:
    return Resources(
        settings=Settings(),
        sensor=Script(),
        output="json",
        stdout=Stream(1),
        stderr=Stream(2),
        recording=None,
        spared=(1,),
    )


def test_every_kind_is_its_class_with_its_types() -> None:
    kinds = agent_kinds(resources())
    assert kinds.keys() == CLASSES.keys()
    for name, kind in kinds.items():
        assert (kind.accepts, kind.emits) == (CLASSES[name].accepts, CLASSES[name].emits)


def test_every_actor_of_the_default_topology_can_be_made() -> None:
    topology = build_topology(Settings(), resources())
    assert {child.kind for child in topology.children} == CLASSES.keys()
    for child in topology.children:
        assert type(child.factory()) is CLASSES[child.kind]


def test_a_topology_can_be_looked_at_with_nothing_attached() -> None:
    assert len(build_topology(Settings()).children) == 20


def test_all_readers_take_turns_from_one_clock() -> None:
    topology = build_topology(Settings(), resources())
    made = [child.factory() for child in topology.children if child.kind.startswith("ring_")]
    assert (
        len({id(actor._sweeps) for actor in made if isinstance(actor, RingReader | RingClock)}) == 1
    )


@pytest.mark.parametrize("dry_run", [True, False])
def test_events_are_urgent_where_the_responder_may_act(*, dry_run: bool) -> None:
    settings = Settings.model_validate({"response": {"dry_run": dry_run}})
    clock = agent_kinds(replace(resources(), settings=settings))["ring_clock"].factory()
    assert isinstance(clock, RingClock)
    assert clock._urgent is not dry_run


def test_a_topology_whose_sweeps_could_not_go_round_is_refused() -> None:
    table = Settings().model_dump()
    del table["topology"]["agent"]["actors"]["open_reader"]
    with pytest.raises(TopologyError, match="OPEN_EVENTS"):
        build_topology(Settings.model_validate(table))


async def test_where_nothing_is_sensed_a_topology_senses_nothing() -> None:
    sensor = NoSensor()
    assert not await sensor.wait(1, urgent=True)
    await sensor.rest(1)
    assert sensor.snapshot() is None
    assert (list(sensor.seeds()), list(sensor.read("X", 1)), sensor.counters()) == ([], [], {})
    sensor.commit("X")
    sensor.ignore(an_exec())


def test_a_recording_is_asked_for_only_with_a_file_to_write(tmp_path: Path) -> None:
    kinds = agent_kinds(resources())
    assert kinds["correlator"].factory()._record is False  # type: ignore[attr-defined] # a Correlator
