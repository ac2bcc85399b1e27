"""Child specs and the topology: what a supervisor runs, as plain data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Literal

from actors.runtime.actor import Actor
from actors.runtime.mailbox import Overflow

#: When a child that ended is started again: always, after an error only, never.
Restart = Literal["permanent", "transient", "temporary"]
#: Who is started again with it: nobody, everybody, everybody started after it.
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]


def sorter(edges: Mapping[str, Iterable[str]]) -> TopologicalSorter[str]:
    """A sorter of actor names, those that tell before those that are told."""
    graph = TopologicalSorter(dict.fromkeys(edges, ()))
    for name, targets in edges.items():
        for target in targets:
            graph.add(target, name)
    return graph


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How to make one actor, whom it tells, and what becomes of it when it ends."""

    #: Its name, unique in the topology.
    name: str
    #: Makes a fresh instance, at the start and after every crash.
    factory: Callable[[], Actor]
    #: Message types it accepts.
    accepts: tuple[type, ...] = ()
    #: Message types it emits.
    emits: tuple[type, ...] = ()
    #: Names of the actors it tells, in the order in which it tells them.
    to: tuple[str, ...] = ()
    #: Messages its mailbox holds.
    capacity: int = 64
    #: What its mailbox does when full.
    overflow: Overflow = "block"
    #: Its restart type.
    restart: Restart = "permanent"
    #: Its kind in the configuration, for people to read.
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A supervisor's actors and edges. The edges form no cycle and name only its own children."""

    #: Its name in the configuration.
    name: str
    #: The actors, in the order of the configuration.
    children: tuple[ChildSpec, ...]
    #: Its restart strategy.
    strategy: Strategy = "one_for_one"
    #: Restarts it makes within `within_secs`; one more and it gives up.
    max_restarts: int = 5
    #: Length of that window in seconds.
    within_secs: float = 30.0
    #: Seconds for the whole drain, from the first source to the last consumer.
    drain_secs: float = 5.0
    #: Seconds for one actor's `stop`; it may outlast `drain_secs` by this much.
    stop_secs: float = 1.0

    def waves(self) -> tuple[tuple[ChildSpec, ...], ...]:
        """The actors in the order of the drain: the sources, then those only they tell, and so on.

        Raises:
            graphlib.CycleError: the edges form a cycle, which is `args[1]`.
        """
        graph = sorter({child.name: child.to for child in self.children})
        graph.prepare()
        waves = []
        while graph.is_active():
            names = set(graph.get_ready())
            waves.append(tuple(child for child in self.children if child.name in names))
            graph.done(*names)
        return tuple(waves)

    def start_order(self) -> tuple[ChildSpec, ...]:
        """The actors in the order in which they start: consumers before producers."""
        return tuple(child for wave in reversed(self.waves()) for child in wave)
