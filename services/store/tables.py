"""Every table of the store, as data: one definition for SQL and Python of both stores.

Times are stored as milliseconds; each ``*_at_unix_ms`` has a timestamp ``*_at`` beside it. What
stands here is the newest version of the schema, as the files of ``versions`` together make it: a
change needs a file there for each dialect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

Kind: TypeAlias = Literal["text", "int", "big", "bool", "json", "texts"]
"""``int`` has 32 bits with a sign, ``big`` 64; ``texts`` is a list of texts."""
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
Dialect: TypeAlias = Literal["sqlite", "postgres"]


class Column(NamedTuple):
    """A column of a table."""

    name: str
    kind: Kind
    nullable: bool


@dataclass(frozen=True)
class Table:
    """A table without its timestamps."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    """Columns that are unique together."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)


def columns(text: str) -> tuple[Column, ...]:
    """The columns of ``name:kind name:kind?``, where ``?`` allows NULL."""
    found = []
    for word in text.split():
        name, _, kind = word.partition(":")
        bare = kind.removesuffix("?")
        found.append(Column(name, _KINDS[bare], kind != bare))
    return tuple(found)


EVENT_HEAD = columns(
    "tenant_id:text agent_id:text hostname:text event_id:text"
    " observed_at_unix_ms:big received_at_unix_ms:big seq:big? time_ns:big?"
)
"""What every event has from its message, and its time; the event's own columns follow."""
OBSERVED, RECEIVED = 4, 5
"""Where the times stand in a row of an event."""


def _event(name: str, own: str) -> Table:
    return Table(name, EVENT_HEAD + columns(own))


# NULL is what version 1 of the messages does not say.
EXEC = _event(
    "exec_events",
    "pid:int start_ns:big? ppid:int parent_start_ns:big? uid:big login_uid:big? cgroup_id:big?"
    " comm:text filename:text exe:text? system_exe:bool? argv_cut:bool? cwd:text? user_name:text?"
    " error:int? ancestry:text? argv:texts stdio:texts",
)
OPEN = _event(
    "open_events",
    "pid:int start_ns:big? uid:big? comm:text filename:text resolved:bool? flags:big? error:int?"
    " origin:text? witness:bool",
)
CONNECT = _event(
    "connect_events",
    "pid:int start_ns:big? uid:big user_name:text? comm:text af:int dest_ip:text dest_port:int"
    " path:text? error:int? ancestry:text? claimed:text socket:big",
)
EXIT = _event("exit_events", "pid:int start_ns:big? exit_code:int? signal:int?")
FORK = _event("fork_events", "pid:int start_ns:big ppid:int parent_start_ns:big uid:big comm:text")
SEED = _event(
    "seed_events",
    "pid:int start_ns:big ppid:int parent_start_ns:big uid:big comm:text exe:text system_exe:bool"
    " argv:texts",
)
LISTEN = _event(
    "listen_events",
    "pid:int start_ns:big uid:big user_name:text comm:text af:int ip:text port:int socket:big",
)
FLOOD = _event(
    "flood_events",
    "pid:int start_ns:big uid:big user_name:text comm:text probe:text failed:bool throttled:big"
    " lost:big span_ns:big",
)
EVENT_TABLES = (EXEC, OPEN, CONNECT, EXIT, FORK, SEED, LISTEN, FLOOD)
NEW_IN: dict[str, int] = {SEED.name: 2, LISTEN.name: 3, FLOOD.name: 3}
"""Version of the schema that brought an event table, where that was not the first."""

BATCHES = Table(
    "batches",
    columns(
        "tenant_id:text agent_id:text batch_id:text epoch:text number:big first_seq:big"
        " last_seq:big hostname:text boot_id:text observed_at_unix_ms:big received_at_unix_ms:big"
        " stored_at_unix_ms:big accepted:int stored:int rejected:json is_overlap:bool"
        " counters:json? boot_unix_ns:big?"
    ),
    key=("tenant_id", "agent_id", "batch_id"),
)
"""One line for each canonical message: what makes storing idempotent, and the ledger possible."""
GAPS = Table(
    "agent_gaps",
    columns(
        "tenant_id:text agent_id:text epoch:text batch_id:text received_at_unix_ms:big"
        " from_unix_ms:big to_unix_ms:big reason:text events:big?"
    ),
)
EVICTIONS = Table(
    "evictions",
    columns(
        "tenant_id:text agent_id:text epoch:text first_seq:big last_seq:big reason:text"
        " received_at_unix_ms:big"
    ),
    key=("tenant_id", "agent_id", "epoch", "first_seq", "last_seq"),
)
ALERTS = Table(
    "alerts",
    columns(
        "alert_id:text tenant_id:text agent_id:text hostname:text rule:text severity:text"
        " detail:text event_type:text event_pid:int event_comm:text created_at_unix_ms:big"
        " observed_at_unix_ms:big received_at_unix_ms:big event_id:text epoch:text rule_id:text"
        " techniques:texts ancestry:text score:big base_score:big lineage_bonus:big"
        " rarity_bonus:big sequence_bonus:big evidence:json"
        " level:text author:text rule_references:texts boot_id:text lineage:text processes:json"
        " count:big source:text lane:text last_observed_at_unix_ms:big incident_id:text?"
        " targets:texts"
    ),
    key=("tenant_id", "agent_id", "alert_id"),
)
"""There is a status, too, which is not the message's."""
INCIDENTS = Table(
    "incidents",
    columns(
        "incident_id:text tenant_id:text agent_id:text hostname:text boot_id:text lineage:text"
        " first_seen_at_unix_ms:big last_seen_at_unix_ms:big received_at_unix_ms:big"
        " alert_count:big hit_count:big score:big level:text severity:text"
    ),
    key=("incident_id",),
)
"""Sums of ``alerts``, one for each lineage that something other than information was said of;
with a status."""
INVALID = Table(
    "invalid_messages",
    columns(
        "invalid_id:text tenant_id:text agent_id:text reason:text detail:text size_bytes:big"
        " received_at_unix_ms:big payload:text"
    ),
    key=("tenant_id", "agent_id", "invalid_id"),
)
KEPT_LIKE_EVENTS = (BATCHES, GAPS, EVICTIONS, INVALID)
"""Tables whose rows are removed when events received with them are."""
PLAIN_TABLES = (*KEPT_LIKE_EVENTS, ALERTS, INCIDENTS)
