"""Snapshots: all that an engine remembers of its host, as bytes, and back.

An engine restored from a snapshot goes on exactly as the one it was taken of: same alerts, same
order of forgetting. Sequences are named by id, so that a snapshot can be restored under other
rules; what belongs to a sequence that is gone, or is another by now, is left out. That is
how rules are exchanged while events come.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from actors.detection.correlator import Link, Window
from actors.detection.engine import Engine
from actors.detection.events import Identity
from actors.detection.fair import Owner
from actors.detection.groups import Group, Member
from actors.detection.processes import TableState
from actors.detection.repeats import Fired
from actors.detection.rules import Sequence
from actors.detection.ruleset import RuleSet

VERSION = 2


class SnapshotError(ValueError):
    """Bytes that are no snapshot of this version."""


class _Partial(msgspec.Struct, frozen=True, array_like=True):
    sequence: str
    step: int
    links: tuple[Link, ...]


class _Window(msgspec.Struct, frozen=True, array_like=True):
    key: Identity
    owner: Owner
    program: str
    newest_ns: int
    partials: tuple[_Partial, ...]


class _Group(msgspec.Struct, frozen=True, array_like=True):
    sequence: str
    scope: str
    values: tuple[str, ...]
    members: tuple[Member, ...]
    owner: Owner
    program: str


class Snapshot(msgspec.Struct, frozen=True):
    """What an engine remembers; the order of every list is the order of its memory."""

    version: int
    table: TableState
    sequences: dict[str, str]
    """Each sequence's fingerprint."""
    windows: tuple[_Window, ...]
    correlator: tuple[int, int]
    """Newest time, partial matches cut."""
    groups: tuple[_Group, ...]
    groups_cut: int
    pairs: tuple[tuple[bytes, int], ...]
    pairs_dropped: int
    callers: tuple[bytes, ...]
    callers_dropped: int
    repeats: tuple[tuple[str, Identity, Fired], ...]
    counts: tuple[int, ...]
    newest_ns: int
    late: int
    alerts: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Snapshot).decode


def take(engine: Engine) -> bytes:
    """Return what an engine remembers."""
    sequences = engine.rules.sequences
    correlator = engine.correlator
    return _encode(
        Snapshot(
            version=VERSION,
            table=engine.table.state(),
            sequences={each.id: _fingerprint(each) for each in sequences},
            windows=tuple(
                _Window(
                    key,
                    window.owner,
                    window.program,
                    window.newest_ns,
                    tuple(
                        _Partial(sequences[index].id, step, links)
                        for (index, step), links in window.partials.items()
                    ),
                )
                for key, window in correlator.windows.items()
            ),
            correlator=(correlator.newest_ns, correlator.cut),
            groups=tuple(
                _Group(
                    sequences[index].id,
                    scope,
                    values,
                    tuple(group.members),
                    group.owner,
                    group.program,
                )
                for (index, scope, values), group in engine.groups.groups.items()
            ),
            groups_cut=engine.groups.cut,
            pairs=tuple(engine.rarity.counts.items()),
            pairs_dropped=engine.rarity.dropped,
            callers=tuple(engine.host.callers.known),
            callers_dropped=engine.host.callers.dropped,
            repeats=tuple((*key, fired) for key, fired in engine.repeats.fired.items()),
            counts=tuple(engine.counts.values()),
            newest_ns=engine.newest_ns,
            late=engine.late,
            alerts=engine.alerts,
        )
    )


def restore(rules: RuleSet, raw: bytes, *, hostname: str = "", every_repeat: bool = True) -> Engine:
    """Return an engine that goes on where a snapshot was taken, perhaps with other rules.

    Raises:
        SnapshotError: The bytes are no snapshot, or of another version.
    """
    try:
        saved = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SnapshotError(f"not a snapshot: {error}") from error
    if saved.version != VERSION:
        raise SnapshotError(f"snapshot of version {saved.version}; this is {VERSION}")
    engine = Engine(rules, hostname=hostname, every_repeat=every_repeat)
    engine.table.adopt(saved.table)
    same = {
        each.id: index
        for index, each in enumerate(rules.sequences)
        if saved.sequences.get(each.id) == _fingerprint(each)
    }
    _restore_windows(engine, saved, same)
    for group in saved.groups:
        if group.sequence in same:
            key = (same[group.sequence], group.scope, group.values)
            engine.groups.adopt(key, Group(list(group.members), group.owner, group.program))
    engine.groups.cut = saved.groups_cut
    engine.rarity.counts.update(saved.pairs)
    engine.rarity.dropped = saved.pairs_dropped
    engine.host.callers.known.update(dict.fromkeys(saved.callers))
    engine.host.callers.dropped = saved.callers_dropped
    for rule_id, root, fired in saved.repeats:
        engine.repeats.adopt((rule_id, root), fired)
    engine.counts = dict(zip(engine.counts, saved.counts, strict=True))
    engine.newest_ns, engine.late, engine.alerts = saved.newest_ns, saved.late, saved.alerts
    return engine


def _restore_windows(engine: Engine, saved: Snapshot, same: dict[str, int]) -> None:
    correlator = engine.correlator
    for each in saved.windows:
        partials: dict[tuple[int, int], Any] = {
            (same[part.sequence], part.step): part.links
            for part in each.partials
            if part.sequence in same
        }
        window = Window(partials, each.owner, each.program, each.newest_ns)
        correlator.adopt(each.key, window)
    correlator.newest_ns, correlator.cut = saved.correlator


def _fingerprint(sequence: Sequence) -> str:
    """Return what changes when a sequence does: then what was begun means something else."""
    meaning = (*sequence.steps, sequence.scope, sequence.ordered, sequence.count, sequence.distinct)
    return hashlib.blake2s(msgspec.json.encode(meaning), digest_size=8).hexdigest()
