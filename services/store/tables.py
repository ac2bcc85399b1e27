"""Every table of the store, as data: one definition for SQL and Python of both stores.

Times are stored as milliseconds; each ``*_at_unix_ms`` has a timestamp ``*_at`` beside it, which
`schema` adds. What stands here is the newest version of the schema; `in_version_1` is the first. A
change needs a migration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

Kind: TypeAlias = Literal["text", "int", "big", "bool", "json", "texts"]
"""``int`` has 32 bits with a sign, ``big`` 64; ``texts`` is a list of texts."""
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}


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
    " error:int? ancestry:text? argv:texts",
)
OPEN = _event(
    "open_events",
    "pid:int start_ns:big? uid:big? comm:text filename:text resolved:bool? flags:big? error:int?"
    " origin:text?",
)
CONNECT = _event(
    "connect_events",
    "pid:int start_ns:big? uid:big user_name:text? comm:text af:int dest_ip:text dest_port:int"
    " path:text? error:int? ancestry:text?",
)
EXIT = _event("exit_events", "pid:int start_ns:big? exit_code:int? signal:int?")
FORK = _event("fork_events", "pid:int start_ns:big ppid:int parent_start_ns:big uid:big comm:text")
SEED = _event(
    "seed_events",
    "pid:int start_ns:big ppid:int parent_start_ns:big uid:big comm:text exe:text system_exe:bool"
    " argv:texts",
)
EVENT_TABLES = (EXEC, OPEN, CONNECT, EXIT, FORK, SEED)

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
    ),
    key=("alert_id",),
)
"""`schema` adds the status."""
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
`schema` adds the status."""
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

NEW_IN_2 = (SEED, INCIDENTS)
_EVENTS_IN_2 = columns("seq:big? time_ns:big?")
ADDED_IN_2 = {
    **{table.name: _EVENTS_IN_2 for table in EVENT_TABLES if table not in NEW_IN_2},
    BATCHES.name: BATCHES.columns[-1:],
    ALERTS.name: ALERTS.columns[-11:],
}
"""Columns that version 1 of the schema did not have, by table."""


def in_version_1(tables: tuple[Table, ...]) -> list[Table]:
    """Those of the tables that version 1 had, as it had them."""
    return [
        replace(table, columns=tuple(each for each in table.columns if each not in added))
        for table in tables
        if table not in NEW_IN_2
        for added in (ADDED_IN_2.get(table.name, ()),)
    ]
