import tomllib
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, PositiveInt

from actors.runtime import Actor, ChildSpec, Kind, Topology, TopologyError, load_topology, render


class Event:
    pass


class Exec(Event):
    pass


class Alert:
    pass


class RingOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ring: Literal["EXEC_EVENTS", "OPEN_EVENTS"]
    pages: PositiveInt = 8


class RingReader(Actor):
    emits = (Exec,)

    def __init__(self, options: RingOptions, *, rings: dict[str, int]) -> None:
        self.descriptor = rings[options.ring]


class Correlator(Actor):
    accepts = (Event,)
    emits = (Alert, Event)


class Console(Actor):
    accepts = (Alert, Exec)


KINDS = {
    "ring_reader": Kind.of(RingReader, options=RingOptions, rings={"EXEC_EVENTS": 7}),
    "correlator": Kind.of(Correlator),
    "console": Kind(factory=Console, accepts=Console.accepts),
}

GOOD = """
[topology.agent]
strategy = "rest_for_one"
max_restarts = 3
within_secs = 10
drain_secs = 2.5
[topology.agent.actors.exec_reader]
kind = "ring_reader"
to = ["correlator"]
options = { ring = "EXEC_EVENTS" }
[topology.agent.actors.correlator]
kind = "correlator"
to = ["console"]
mailbox = { capacity = 256, overflow = "block" }
restart = "transient"
[topology.agent.actors.console]
kind = "console"
mailbox = { overflow = "drop_oldest" }
"""


def load(text: str) -> Topology:
    return load_topology(tomllib.loads(text)["topology"], name="agent", kinds=KINDS)


def problems(text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        load(text)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def actors(**tables: dict[str, Any]) -> list[str]:
    """The problems of a topology of these actors."""
    with pytest.raises(TopologyError) as caught:
        load_topology({"agent": {"actors": tables}}, name="agent", kinds=KINDS)
    return [str(problem) for problem in caught.value.problems]


def test_a_topology_is_loaded() -> None:
    topology = load(GOOD)
    assert (topology.name, topology.strategy, topology.max_restarts) == (
        "agent",
        "rest_for_one",
        3,
    )
    assert (topology.within_secs, topology.drain_secs, topology.stop_secs) == (10, 2.5, 1)
    reader, correlator, console = topology.children
    assert (reader.name, reader.kind, reader.to) == ("exec_reader", "ring_reader", ("correlator",))
    assert (correlator.accepts, correlator.emits) == ((Event,), (Alert, Event))
    assert (correlator.capacity, correlator.overflow) == (256, "block")
    assert (correlator.restart, console.restart) == ("transient", "permanent")
    assert (console.capacity, console.overflow) == (64, "drop_oldest")
    made = reader.factory()
    assert isinstance(made, RingReader)
    assert made.descriptor == 7
    assert made is not reader.factory()
    assert isinstance(correlator.factory(), Correlator)


def test_a_topology_is_shown() -> None:
    assert render(load(GOOD)) == (
        "topology agent\n"
        "└─ supervisor rest_for_one, at most 3 restarts in 10 s, drains within 2.5 s\n"
        "   ├─ console      console      mailbox 64 drop_oldest  permanent\n"
        "   ├─ correlator   correlator   mailbox 256 block       transient\n"
        "   └─ exec_reader  ring_reader  mailbox 64 block        permanent\n"
        "edges\n"
        "   exec_reader -> correlator: Exec\n"
        "   correlator -> console: Alert, Exec\n"
    )


def test_waves_go_from_the_sources_to_those_who_hear_last() -> None:
    topology = Topology(
        name="test",
        children=tuple(
            ChildSpec(name=name, factory=Actor, to=to)
            for name, to in {
                "d": (),
                "a": ("b", "d"),
                "b": ("c",),
                "c": ("d",),
                "z": ("d",),
            }.items()
        ),
    )
    assert [[child.name for child in wave] for wave in topology.waves()] == [
        ["a", "z"],
        ["b"],
        ["c"],
        ["d"],
    ]
    assert [child.name for child in topology.start_order()] == ["d", "c", "b", "a", "z"]


def test_a_missing_topology_names_those_there_are() -> None:
    with pytest.raises(TopologyError) as caught:
        load_topology({"replay": {}}, name="agent", kinds=KINDS)
    assert str(caught.value) == (
        "topology.agent = missing: add a table [topology.agent]; there is replay"
    )
    with pytest.raises(TopologyError, match="there is none"):
        load_topology({}, name="agent", kinds=KINDS)


def test_all_problems_of_shape_are_reported_at_once() -> None:
    assert problems("""
        [topology.agent]
        strategy = "one_for_two"
        max_restarts = -1
        within_secs = "30"
        drain_secs = nan
        colour = "blue"
        [topology.agent.actors.Reader]
        to = "correlator"
        mailbox = { capacity = 0, overflow = "spill" }
        restart = "sometimes"
    """) == [
        (
            "topology.agent.strategy = 'one_for_two': "
            "should be 'one_for_one', 'one_for_all' or 'rest_for_one'"
        ),
        "topology.agent.max_restarts = -1: should be greater than or equal to 0",
        "topology.agent.within_secs = '30': should be a valid number",
        "topology.agent.drain_secs = nan: should be a finite number",
        (
            "topology.agent.actors.Reader.[key] = 'Reader': "
            "String should match pattern '^[a-z][a-z0-9_]*$'"
        ),
        "topology.agent.actors.Reader.kind = missing: add it",
        "topology.agent.actors.Reader.to = 'correlator': should be a valid list",
        "topology.agent.actors.Reader.mailbox.capacity = 0: should be greater than or equal to 1",
        (
            "topology.agent.actors.Reader.mailbox.overflow = 'spill': "
            "should be 'block', 'drop_newest' or 'drop_oldest'"
        ),
        (
            "topology.agent.actors.Reader.restart = 'sometimes': "
            "should be 'permanent', 'transient' or 'temporary'"
        ),
        "topology.agent.colour = 'blue': remove it: there is no such key",
    ]


def test_a_topology_needs_actors() -> None:
    assert problems("[topology.agent.actors]") == [
        "topology.agent.actors = {}: Dictionary should have at least 1 item after validation, not 0"
    ]


def test_an_unknown_kind_gets_the_nearest_or_all() -> None:
    assert actors(a={"kind": "ring_raeder"}, b={"kind": "os.system"}) == [
        "topology.agent.actors.a.kind = 'ring_raeder': should be 'ring_reader'",
        (
            "topology.agent.actors.b.kind = 'os.system': "
            "should be one of 'ring_reader', 'correlator', 'console'"
        ),
    ]


def test_options_are_those_of_the_kind() -> None:
    assert actors(
        a={"kind": "ring_reader", "options": {"ring": "NO_SUCH", "pages": 0, "speed": "x" * 99}},
        b={"kind": "ring_reader"},
        c={"kind": "console", "options": {"loud": True}},
    ) == [
        (
            "topology.agent.actors.a.options.ring = 'NO_SUCH': "
            "should be 'EXEC_EVENTS' or 'OPEN_EVENTS'"
        ),
        "topology.agent.actors.a.options.pages = 0: should be greater than 0",
        "topology.agent.actors.a.options.speed = '" + 76 * "x" + "...: "
        "remove it: there is no such key",
        "topology.agent.actors.b.options.ring = missing: add it",
        (
            "topology.agent.actors.c.options = {'loud': True}: "
            "remove it: kind 'console' has no options"
        ),
    ]


def test_edges_lead_to_other_actors_once() -> None:
    assert actors(
        correlator={
            "kind": "correlator",
            "to": ["consle", "console", "console", "correlator", "xyz"],
        },
        console={"kind": "console"},
    ) == [
        "topology.agent.actors.correlator.to = 'consle': should be 'console'",
        "topology.agent.actors.correlator.to = 'console': remove it: this edge is there already",
        (
            "topology.agent.actors.correlator.to = 'correlator': "
            "remove it: an actor does not tell itself"
        ),
        "topology.agent.actors.correlator.to = 'xyz': should be one of 'correlator', 'console'",
    ]


def test_edges_carry_types_that_both_ends_know() -> None:
    ring = {"ring": "EXEC_EVENTS"}
    assert actors(
        console={"kind": "console", "to": ["correlator"]},
        correlator={"kind": "correlator", "to": ["reader"]},
        reader={"kind": "ring_reader", "options": ring, "to": ["mystery"]},
        mystery={"kind": "?", "to": ["reader"]},
    ) == [
        (
            "topology.agent.actors.console.to = 'correlator': "
            "remove it: console emits nothing, but correlator accepts Event"
        ),
        (
            "topology.agent.actors.correlator.to = 'reader': "
            "remove it: correlator emits Alert, Event, but reader accepts nothing"
        ),
        (
            "topology.agent.actors.mystery.kind = '?': "
            "should be one of 'ring_reader', 'correlator', 'console'"
        ),
        (
            "topology.agent.actors = mystery -> reader -> mystery: "
            "remove one of these edges: a drain needs an order"
        ),
    ]


def test_a_cycle_is_named() -> None:
    correlator = {"kind": "correlator"}
    assert actors(
        x={**correlator, "to": ["b"]},
        c={**correlator, "to": ["a"]},
        b={**correlator, "to": ["c", "x", "nobody"]},
        a={**correlator, "to": ["b"]},
    )[-1] in {
        (
            "topology.agent.actors = a -> b -> c -> a: "
            "remove one of these edges: a drain needs an order"
        ),
        "topology.agent.actors = b -> x -> b: remove one of these edges: a drain needs an order",
    }
    assert actors(b={**correlator, "to": ["a"]}, a={**correlator, "to": ["b"]}) == [
        "topology.agent.actors = a -> b -> a: remove one of these edges: a drain needs an order"
    ]
