"""Topologies from configuration: validate `[topology.<name>]` tables, and show them.

Validation has two steps, and each reports all it finds: the shape of the tables, then what they
say about kinds, options and edges.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from graphlib import CycleError
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.runtime.actor import Actor
from actors.runtime.errors import Problem, TopologyError
from actors.runtime.mailbox import Overflow
from actors.runtime.spec import ChildSpec, Restart, Strategy, Topology, sorter

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of actor that configuration may ask for by name."""

    #: Makes an instance; gets the validated options as its one argument if there is a model.
    factory: Callable[..., Actor]
    #: Message types it accepts.
    accepts: tuple[type, ...] = ()
    #: Message types it emits.
    emits: tuple[type, ...] = ()
    #: Model of its `options` table; None if it has none.
    options: type[BaseModel] | None = None

    @classmethod
    def of(
        cls, actor: type[Actor], *, options: type[BaseModel] | None = None, **bound: Any
    ) -> Self:
        """The kind of an actor class; `bound` are the resources every instance is given."""
        factory = partial(actor, **bound)
        return cls(factory=factory, accepts=actor.accepts, emits=actor.emits, options=options)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MailboxTable(_Table):
    """`mailbox = { capacity = 64, overflow = "block" }`."""

    capacity: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    overflow: Overflow = "block"


class ActorTable(_Table):
    """`[topology.<name>.actors.<actor>]`."""

    kind: str
    to: list[str] = []
    mailbox: MailboxTable = MailboxTable()
    restart: Restart = "permanent"
    options: dict[str, Any] = {}


class TopologyTable(_Table):
    """`[topology.<name>]`."""

    strategy: Strategy = "one_for_one"
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 5
    within_secs: Seconds = 30.0
    drain_secs: Seconds = 5.0
    stop_secs: Seconds = 1.0
    actors: Annotated[dict[Name, ActorTable], Field(min_length=1)]


def load_topology(tables: Mapping[str, Any], *, name: str, kinds: Mapping[str, Kind]) -> Topology:
    """The topology `name` out of the `[topology]` table of a configuration.

    Args:
        tables: what stands under `topology`, as parsed from TOML.
        name: which of them to load; the others are not looked at.
        kinds: the actor kinds this program knows.

    Raises:
        TopologyError: with every problem of the step that failed.
    """
    prefix = f"topology.{name}"
    if name not in tables:
        remedy = f"add a table [{prefix}]; there is {', '.join(tables) or 'none'}"
        raise TopologyError([Problem(prefix, "missing", remedy)])
    try:
        table = TopologyTable.model_validate(tables[name])
    except ValidationError as error:
        raise TopologyError(list(_shape_problems(error, prefix=prefix))) from None

    problems: list[Problem] = []
    children: list[ChildSpec] = []
    for actor_name, actor in table.actors.items():
        key = f"{prefix}.actors.{actor_name}"
        problems += _edge_problems(actor_name, actors=table.actors, kinds=kinds, key=key)
        kind = kinds.get(actor.kind)
        if kind is None:
            remedy = f"should be {_one_of(kinds, near=actor.kind)}"
            problems.append(Problem(f"{key}.kind", repr(actor.kind), remedy))
            continue
        try:
            factory = _bind_options(kind, actor, key=key)
        except TopologyError as error:
            problems += error.problems
            continue
        children.append(
            ChildSpec(
                name=actor_name,
                kind=actor.kind,
                factory=factory,
                accepts=kind.accepts,
                emits=kind.emits,
                to=tuple(actor.to),
                capacity=actor.mailbox.capacity,
                overflow=actor.mailbox.overflow,
                restart=actor.restart,
            )
        )
    problems += _cycle_problems(table.actors, key=f"{prefix}.actors")
    if problems:
        raise TopologyError(problems)
    return Topology(
        name=name,
        children=tuple(children),
        strategy=table.strategy,
        max_restarts=table.max_restarts,
        within_secs=table.within_secs,
        drain_secs=table.drain_secs,
        stop_secs=table.stop_secs,
    )


def _bind_options(kind: Kind, actor: ActorTable, *, key: str) -> Callable[[], Actor]:
    if kind.options is not None:
        try:
            return partial(kind.factory, kind.options.model_validate(actor.options))
        except ValidationError as error:
            raise TopologyError(list(_shape_problems(error, prefix=f"{key}.options"))) from None
    if actor.options:
        remedy = f"remove it: kind {actor.kind!r} has no options"
        raise TopologyError([Problem(f"{key}.options", _shown(actor.options), remedy)])
    return kind.factory


def _edge_problems(
    name: str, *, actors: Mapping[str, ActorTable], kinds: Mapping[str, Kind], key: str
) -> Iterator[Problem]:
    actor = actors[name]
    for position, target in enumerate(actor.to):
        remedy = None
        if target == name:
            remedy = "remove it: an actor does not tell itself"
        elif target in actor.to[:position]:
            remedy = "remove it: this edge is there already"
        elif target not in actors:
            remedy = f"should be {_one_of(actors, near=target)}"
        elif actor.kind in kinds and actors[target].kind in kinds:
            emits, accepts = kinds[actor.kind].emits, kinds[actors[target].kind].accepts
            if not matching_types(emits, accepts=accepts):
                remedy = (
                    f"remove it: {name} emits {_type_names(emits)}, "
                    f"but {target} accepts {_type_names(accepts)}"
                )
        if remedy is not None:
            yield Problem(f"{key}.to", repr(target), remedy)


def _cycle_problems(actors: Mapping[str, ActorTable], *, key: str) -> Iterator[Problem]:
    edges = {
        name: [target for target in actor.to if target in actors and target != name]
        for name, actor in actors.items()
    }
    try:
        sorter(edges).prepare()
    except CycleError as error:
        # graphlib gives a -> b -> a, beginning anywhere; begin with the smallest name.
        ring = error.args[1][:-1]
        first = ring.index(min(ring))
        path = " -> ".join([*ring[first:], *ring[:first], ring[first]])
        yield Problem(key, path, "remove one of these edges: a drain needs an order")


def _shape_problems(error: ValidationError, *, prefix: str) -> Iterator[Problem]:
    for item in error.errors():
        key = ".".join([prefix, *(str(part) for part in item["loc"])])
        if item["type"] == "missing":
            yield Problem(key, "missing", "add it")
        elif item["type"] == "extra_forbidden":
            yield Problem(key, _shown(item["input"]), "remove it: there is no such key")
        else:
            remedy = item["msg"].removeprefix("Input ").removeprefix("Value error, ")
            yield Problem(key, _shown(item["input"]), remedy)


def _one_of(right: Iterable[str], *, near: str) -> str:
    close = get_close_matches(near, right, n=1)
    if close:
        return repr(close[0])
    return "one of " + ", ".join(map(repr, right))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def matching_types(emits: Iterable[type], *, accepts: Iterable[type]) -> list[type]:
    """The message types that can travel along an edge: the narrower of each pair that fits."""
    accepts = tuple(accepts)
    matches: dict[type, None] = {}
    for emitted in emits:
        for accepted in accepts:
            if issubclass(emitted, accepted):
                matches[emitted] = None
            elif issubclass(accepted, emitted):
                matches[accepted] = None
    return list(matches)


def _type_names(types: Iterable[type]) -> str:
    return ", ".join(kind.__name__ for kind in types) or "nothing"


def render(topology: Topology) -> str:
    """The topology for people: the supervisor, the actors in start order, the edges."""
    order = topology.start_order()
    by_name = {child.name: child for child in order}
    rows = [
        (
            child.name,
            child.kind,
            f"mailbox {child.capacity} {child.overflow}",
            child.restart,
        )
        for child in order
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"topology {topology.name}",
        (
            f"└─ supervisor {topology.strategy}, at most {topology.max_restarts} restarts "
            f"in {topology.within_secs:g} s, drains within {topology.drain_secs:g} s"
        ),
    ]
    for row in rows:
        branch = "└─" if row is rows[-1] else "├─"
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"   {branch} {cells.rstrip()}")
    lines.append("edges")
    for child in topology.children:
        for target in child.to:
            types = _type_names(matching_types(child.emits, accepts=by_name[target].accepts))
            lines.append(f"   {child.name} -> {target}: {types}")
    return "\n".join(lines) + "\n"
