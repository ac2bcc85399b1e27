"""Whatever is done to a spool, what went in is there, was removed, or is counted and told."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.transport.spool_cast import EPOCH, EVENTS, NOW, batch, marks
from transport.messages import Evicted
from transport.spool import Spool
from transport.spool_errors import SpoolFull
from transport.spool_evictions import Kind
from transport.spool_records import Item, Marks, NewItem
from transport.spool_rows import cost_bytes

MAX_BYTES = 30_000
MAX_AGE_SECS = 60
SIZES = st.sampled_from([1, 100, 3000, 9000, 20_000, 40_000])


class SpoolModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.spool = self.open()
        self.held: dict[str, NewItem] = {}
        self.in_flight: dict[int, Item] = {}
        self.gone: dict[Kind, int] = {"telemetry": 0, "alert": 0}
        self.untold: set[int] = set()
        self.marks: Marks | None = None
        self.now = NOW
        self.n = 0

    def open(self) -> Spool:
        return Spool.open(self.folder, max_bytes=MAX_BYTES, max_age_secs=MAX_AGE_SECS)

    def everything(self) -> list[Item]:
        return self.spool.oldest(10**6, limit_bytes=10**9)

    @rule(kinds=st.lists(st.sampled_from(["telemetry", "alert"]), max_size=4), size=SIZES)
    def append(self, kinds: list[Kind], size: int) -> None:
        items = [batch(self.n + i, size=size, kind=kind) for i, kind in enumerate(kinds)]
        self.n += len(kinds)
        self.marks = marks(self.n * EVENTS)
        losses = self.spool.append(
            items, self.marks, now_unix_ms=self.now, keep=self.in_flight.keys()
        )
        self.held |= {each.message_id: each for each in items}
        self.take_away(losses_items=sum(each.items for each in losses))

    def take_away(self, *, losses_items: int) -> None:
        """What is missing now was evicted, by the rules."""
        there = {each.message_id for each in self.everything()}
        missing = [each for name, each in self.held.items() if name not in there]
        assert len(missing) == losses_items
        kept = {each.message_id for each in self.in_flight.values()}
        assert not kept & {each.message_id for each in missing}
        free = [each for name, each in self.held.items() if name in there - kept]
        for each in missing:
            del self.held[each.message_id]
            self.gone[each.kind] += 1
            if each.kind == "telemetry":
                self.untold |= set(range(each.first_seq, each.first_seq + each.events))
        total = sum(cost_bytes(len(each.payload)) for each in self.held.values())
        assert total <= MAX_BYTES or not free

    @rule(size=SIZES)
    def append_on_a_full_disk(self, size: int) -> None:
        pages = self.spool._db.execute("PRAGMA page_count").fetchone()[0]
        self.spool._db.execute(f"PRAGMA max_page_count={pages}")
        try:
            losses = self.spool.append(
                [batch(self.n, size=size)],
                marks((self.n + 1) * EVENTS),
                now_unix_ms=self.now,
                keep=self.in_flight.keys(),
            )
        except SpoolFull:
            return
        finally:
            self.spool._db.execute("PRAGMA max_page_count=1000000")
        self.held[batch(self.n).message_id] = batch(self.n, size=size)
        self.n += 1
        self.marks = marks(self.n * EVENTS)
        self.take_away(losses_items=sum(each.items for each in losses))

    @rule(limit=st.integers(1, 5), limit_bytes=st.sampled_from([1, 5000, 10**6]))
    def send(self, limit: int, limit_bytes: int) -> None:
        items = self.spool.oldest(limit, limit_bytes=limit_bytes, skip=self.in_flight.keys())
        waiting = [each for each in self.everything() if each.id not in self.in_flight]
        assert items == waiting[: len(items)]
        assert items or not waiting
        assert len(items) <= limit
        assert len(items) == 1 or sum(len(each.payload) for each in items) <= limit_bytes
        self.in_flight |= {each.id: each for each in items}

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.in_flight)), unique=True))
        self.spool.remove(ids)
        for number in ids:
            del self.held[self.in_flight.pop(number).message_id]

    @rule()
    def lose_the_connection(self) -> None:
        self.in_flight.clear()

    @rule(secs=st.sampled_from([1, 30, 61, -50]))
    def let_time_pass(self, secs: int) -> None:
        self.now += secs * 1000

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.in_flight.clear()
        self.spool = self.open()

    @rule()
    def report(self) -> None:
        told = self.spool.unreported()
        self.spool.reported(told)
        self.untold.clear()

    @invariant()
    def what_is_there_is_what_went_in(self) -> None:
        items = self.everything()
        assert {each.message_id: NewItem(*each[1:8]) for each in items} == self.held
        assert [each.kind for each in items] == sorted(each.kind for each in items)
        for kind in ("telemetry", "alert"):
            ids = [each.id for each in items if each.kind == kind]
            assert ids == sorted(ids)
        assert self.spool.marks() == self.marks

    @invariant()
    def everything_is_counted(self) -> None:
        found = self.spool.statistics(now_unix_ms=self.now)
        kinds = [each.kind for each in self.held.values()]
        assert (found.batches, found.alerts) == (kinds.count("telemetry"), kinds.count("alert"))
        assert found.bytes == sum(cost_bytes(len(each.payload)) for each in self.held.values())
        for kind, number in self.gone.items():
            assert sum(each.items for each in found.evicted if each.kind == kind) == number
        events = sum(each.events for each in found.evicted)
        assert events == self.gone["telemetry"] * EVENTS

    @invariant()
    def evicted_events_are_told_exactly(self) -> None:
        runs = self.spool.unreported()
        assert all(isinstance(run, Evicted) and run.epoch == EPOCH for run in runs)
        told = [seq for run in runs for seq in range(run.first_seq, run.last_seq + 1)]
        assert sorted(told) == sorted(self.untold)

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.folder)


SpoolModel.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestSpool = SpoolModel.TestCase
