"""The spool: what keeps an agent's messages until the broker has them, and the marks they go with.

One SQLite file, one row per message, one durable transaction per `Spool.append`. The marks, how far
each ring was read, are in the transaction of the events that were read: after a crash an event is
in the spool or still in its ring, never in both. Nothing leaves unsent without being noted in that
same way, see `transport.spool_evictions`.

Not async and not for two threads at a time; every call may wait for the disk.

What it is not: no queue between processes (one has it), no order across kinds (alerts go first), no
filter for duplicates: what was removed shortly before a crash comes again under its message id.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from transport import spool_rows
from transport.messages import Evicted
from transport.spool_errors import SpoolError, SpoolFull, explained
from transport.spool_evictions import Gone, Loss
from transport.spool_file import EVICTIONS, MARKS, PAGE_BYTES, open_file, pragma, write_state
from transport.spool_folder import FILE, take_folder
from transport.spool_records import Item, Marks, NewItem, Opened, Statistics

MAX_BYTES = 256 * 1024 * 1024
MAX_AGE_SECS = 24 * 3600.0
_REMOVALS_MAX = 256
"""Removals that wait for the next append at most."""
_SHRINK_BYTES = 32 * 1024 * 1024
"""An empty spool whose file is larger gives the room back."""


class Spool:
    """An open spool. Every method may raise `SpoolError`."""

    opened: Opened
    """How the file was found."""

    def __init__(self, folder: Path, lock: int, *, max_bytes: int, max_age_secs: float) -> None:
        """Use `open`."""
        self._path = folder / FILE
        self._lock: int | None = lock
        self._max_bytes = max_bytes
        self._max_age_ms = int(max_age_secs * 1000)
        self._failed_appends = 0
        self._removed: set[int] = set()
        """Ids that are gone, but not yet from the file."""
        self._db, self._marks, self._log, self.opened = open_file(self._path)
        self._log_changed = False
        try:
            with explained(self._path, "read"):
                stocks = {kind: spool_rows.stock(self._db, kind) for kind in spool_rows.RANGES}
        except BaseException:
            self._db.close()
            raise
        self._counts = {kind: each.items for kind, each in stocks.items()}
        self._next_ids = {kind: each.next_id for kind, each in stocks.items()}
        self._bytes = sum(each.size_bytes for each in stocks.values())

    @classmethod
    def open(
        cls, folder: Path, *, max_bytes: int = MAX_BYTES, max_age_secs: float = MAX_AGE_SECS
    ) -> Spool:
        """Open the spool of a folder, which is made if need be and must be this process's user's.

        What cannot be used in its place is set aside and replaced; `opened` says so.

        Raises:
            SpoolInUse: another process has it.
            SpoolError: the folder or its disk refuses; the text says what to do.
        """
        lock = take_folder(folder)
        try:
            return cls(folder, lock, max_bytes=max_bytes, max_age_secs=max_age_secs)
        except OSError as error:
            os.close(lock)
            raise SpoolError(f"cannot use {folder} for the spool: {error}") from error
        except BaseException:
            os.close(lock)
            raise

    def append(
        self,
        items: Sequence[NewItem],
        marks: Marks,
        *,
        now_unix_ms: int,
        keep: Collection[int] = (),
    ) -> list[Loss]:
        """Write items and marks durably, all or nothing; what had to leave for them.

        Above the bounds the oldest telemetry goes first, alerts last. ``keep`` are ids on their way
        to the broker: they stay, even above the bounds. Ages are differences of ``now_unix_ms``,
        which should be a clock that nobody sets: one that jumps ahead makes everything old.

        Raises:
            SpoolFull: nothing was written; it may succeed later.
            SpoolError: nothing was written.
        """
        try:
            try:
                return self._append(items, marks, now_unix_ms, keep)
            except SpoolFull:
                # The log cannot grow. Brought into the file, it is written again from its start.
                with suppress(sqlite3.Error):
                    pragma(self._db, "wal_checkpoint(PASSIVE)")
                return self._append(items, marks, now_unix_ms, keep)
        except BaseException:
            self._failed_appends += 1
            raise

    def _append(
        self, items: Sequence[NewItem], marks: Marks, now_unix_ms: int, keep: Collection[int]
    ) -> list[Loss]:
        counts, total, next_ids = dict(self._counts), self._bytes, dict(self._next_ids)
        gone: list[Gone] = []
        rows = []
        for item in items:
            cost = spool_rows.cost_bytes(len(item.payload))
            if cost > self._max_bytes:
                gone.append(Gone(item.kind, "bytes", item.epoch, item.first_seq, item.events))
                continue
            rows.append(spool_rows.row_of(next_ids[item.kind], item, now_unix_ms))
            next_ids[item.kind] += 1
            counts[item.kind] += 1
            total += cost
        log = self._log.copy()
        with self._transaction():
            spool_rows.delete(self._db, self._removed)
            spool_rows.insert(self._db, rows)
            doomed = spool_rows.doomed(
                self._db,
                excess_bytes=total - self._max_bytes,
                horizon_unix_ms=now_unix_ms - self._max_age_ms,
                keep=keep,
            )
            spool_rows.delete(self._db, [each.id for each in doomed])
            losses = log.add([*gone, *(each.gone for each in doomed)])
            write_state(self._db, MARKS, msgspec.json.encode(marks))
            if losses or self._log_changed:
                write_state(self._db, EVICTIONS, msgspec.json.encode(log))
        for each in doomed:
            counts[each.gone.kind] -= 1
            total -= each.size_bytes
        self._counts, self._bytes, self._next_ids = counts, total, next_ids
        self._marks, self._log, self._log_changed = marks, log, False
        self._removed.clear()
        return losses

    def oldest(self, limit: int, *, limit_bytes: int, skip: Collection[int] = ()) -> list[Item]:
        """Alerts, then telemetry, each oldest first; without those of ``skip`` (on their way).

        At most ``limit`` items and ``limit_bytes`` of payload, but always one if there is one.
        Damaged rows are evicted on the way, with the reason ``corrupt``.
        """
        items: list[Item] = []
        with explained(self._path, "read"), closing(spool_rows.sizes(self._db)) as sizes:
            for number, payload_bytes in sizes:
                if number in skip or number in self._removed:
                    continue
                if len(items) == limit or (items and payload_bytes > limit_bytes):
                    break
                found = spool_rows.read(self._db, number)
                if isinstance(found, Gone):
                    self._forget(number, payload_bytes)
                    self._log.add([found])
                    self._log_changed = True
                else:
                    items.append(found)
                    limit_bytes -= payload_bytes
        return items

    def remove(self, ids: Iterable[int]) -> None:
        """Take out what the broker has; ids that are not in the spool are ignored.

        Not durable before the next append: after a crash an item may come again.
        """
        with explained(self._path, "read"):
            for number in ids:
                payload_bytes = spool_rows.size_bytes(self._db, number)
                if payload_bytes is not None and number not in self._removed:
                    self._forget(number, payload_bytes)
            empty = not self.waiting
            large = int(pragma(self._db, "page_count")) * PAGE_BYTES > _SHRINK_BYTES
        # What a full disk refuses is tried again, and reported, by the next append.
        with suppress(SpoolError):
            if len(self._removed) >= _REMOVALS_MAX or (empty and large):
                self._flush()
            if empty and large:
                self._shrink()

    def give_up(self, items: Iterable[Item], reason: str) -> list[Loss]:
        """Take out what the broker can never have, noted like an eviction; what it was.

        Durable with the next append.
        """
        gone: list[Gone] = []
        with explained(self._path, "read"):
            for item in items:
                payload_bytes = spool_rows.size_bytes(self._db, item.id)
                if payload_bytes is not None and item.id not in self._removed:
                    self._forget(item.id, payload_bytes)
                    gone.append(Gone(item.kind, reason, item.epoch, item.first_seq, item.events))
        self._log_changed = True
        return self._log.add(gone)

    def _forget(self, number: int, payload_bytes: int) -> None:
        self._removed.add(number)
        self._counts[spool_rows.kind_of(number)] -= 1
        self._bytes -= spool_rows.cost_bytes(payload_bytes)

    def _flush(self) -> None:
        """Write down removals and evictions."""
        with self._transaction():
            spool_rows.delete(self._db, self._removed)
            if self._log_changed:
                write_state(self._db, EVICTIONS, msgspec.json.encode(self._log))
        self._removed.clear()
        self._log_changed = False

    def _shrink(self) -> None:
        with explained(self._path, "shrink"):
            self._db.execute("VACUUM").close()
            pragma(self._db, "wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self._path, "write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled it back by itself.
                if self._db.in_transaction:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                raise

    @property
    def waiting(self) -> int:
        """Messages that wait; needs no look at the file."""
        return sum(self._counts.values())

    def marks(self) -> Marks | None:
        """Those of the last append, by this process or one before; None before the first."""
        return self._marks

    def unreported(self) -> list[Evicted]:
        """Runs of evicted events to tell the backend of, in the counters of a batch."""
        return list(self._log.runs)

    def reported(self, told: Iterable[Evicted]) -> None:
        """Forget runs that an acknowledged batch told of. Durable with the next append."""
        self._log.told(told)
        self._log_changed = True

    def statistics(self, *, now_unix_ms: int) -> Statistics:
        """How full it is now."""
        with explained(self._path, "read"):
            oldest_unix_ms = min(
                spool_rows.oldest_unix_ms(self._db, kind, skip=self._removed)
                for kind in spool_rows.RANGES
            )
        return Statistics(
            batches=self._counts["telemetry"],
            alerts=self._counts["alert"],
            bytes=self._bytes,
            oldest_age_secs=max(0, now_unix_ms - oldest_unix_ms) / 1000,
            evicted=list(self._log.totals),
            untold_events=self._log.untold_events,
            failed_appends=self._failed_appends,
        )

    def close(self) -> None:
        """Write down what waits and let go of the file; safe to call twice."""
        if self._lock is None:
            return
        # What cannot be written now comes again, and is told again.
        with suppress(SpoolError):
            self._flush()
        self._db.close()
        os.close(self._lock)
        self._lock = None
