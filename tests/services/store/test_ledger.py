"""The facts a store gives to the ledger."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from services.store.interface import EpochFacts, LedgerFacts, Store
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from tests.services.store.cast import EPOCH, NOW_MS, alert, batch, exit_event, invalid
from tests.services.store.places import Place
from transport.messages import Counters, Evicted, Gap, ProbeCounts, Rejected

LATER = "ffeeddccbbaa9988"


async def ledger(store: Store, since: int = 0, until: int = 1 << 53, **chosen: Any) -> LedgerFacts:
    return await store.ledger(since_unix_ms=since, until_unix_ms=until, **chosen)


async def facts(store: Store, since: int = 0, until: int = 1 << 53) -> EpochFacts:
    (found,) = (await ledger(store, since, until)).epochs
    return found


async def test_an_empty_store_knows_nothing(store: Store) -> None:
    assert await ledger(store, count_rows=True) == LedgerFacts([])


async def test_counters_are_those_of_the_last_batch_and_of_the_one_before_the_range(
    store: Store,
) -> None:
    probes = {"exec": ProbeCounts(seen=9, delivered=8, lost=1)}
    messages = [
        batch(n, counters=Counters(probes=probes, read=100 * n, spooled=10 * n + 10))
        for n in range(12)
    ]
    await store.add_telemetry(messages[::-1])
    found = await facts(store, NOW_MS + 3, NOW_MS + 11)
    assert (found.batches, found.first_seq, found.next_seq) == (8, 30, 110)
    assert (found.first_received_unix_ms, found.last_received_unix_ms) == (NOW_MS + 3, NOW_MS + 10)
    assert found.counters == messages[10].counters
    assert found.counters_before == messages[2].counters
    assert (await facts(store, 0, NOW_MS + 3)).counters_before is None


async def test_runs_of_which_no_batch_came_are_missing(store: Store) -> None:
    await store.add_telemetry([batch(n) for n in (0, 1, 4, 7, 8)])
    found = await facts(store)
    assert found.missing == [(20, 39), (50, 69)]
    assert found.missing_events == 40
    assert (found.stored, found.next_seq) == (50, 90)


async def test_a_batch_without_events_tells_how_far_the_agent_was(store: Store) -> None:
    await store.add_telemetry([batch(0), batch(1, events=[], first_seq=25)])
    found = await facts(store)
    assert (found.batches, found.next_seq, found.missing) == (2, 25, [(10, 24)])
    await store.add_telemetry([batch(2, first_seq=25), batch(3, first_seq=10)])
    assert (await facts(store)).missing == [(20, 24)]


async def test_an_epoch_of_batches_without_events_misses_nothing(store: Store) -> None:
    await store.add_telemetry([batch(n, events=[], first_seq=7) for n in range(3)])
    found = await facts(store)
    assert (found.batches, found.first_seq, found.next_seq, found.missing) == (3, 7, 7, [])


async def test_what_came_outside_the_range_is_not_missing(store: Store) -> None:
    await store.add_telemetry([batch(n) for n in (0, 2, 3, 5)])
    await store.add_telemetry([batch(1, received_at_unix_ms=NOW_MS - 900)])
    await store.add_telemetry([batch(4, received_at_unix_ms=NOW_MS + 900)])
    found = await facts(store, NOW_MS, NOW_MS + 800)
    assert (found.missing, found.missing_events, found.outside_events) == ([], 0, 20)
    assert (found.stored, found.first_seq, found.next_seq) == (40, 0, 60)


async def test_missing_runs_are_cut_and_their_sum_is_not(store: Store) -> None:
    events = [exit_event()]
    await store.add_telemetry([batch(n, events=events, first_seq=3 * n) for n in range(1103)])
    found = await facts(store)
    assert len(found.missing) == 1000
    assert found.missing[:2] == [(1, 2), (4, 5)]
    assert found.missing_events == 2204


async def test_gaps_and_evictions_are_told_each_once(store: Store, place: Place) -> None:
    gap = Gap(NOW_MS - 9, NOW_MS - 5, "lost_in_kernel", 4)
    run = Evicted(EPOCH, 10, 19, "bytes")
    await store.add_telemetry([batch(0, counters=Counters(gaps=[gap], evicted=[run]))])
    told_again = Counters(
        gaps=[Gap(1, 2, "not_watching")],
        evicted=[run, Evicted(EPOCH, 40, 59, "age"), Evicted("0" * 15 + "1", 0, 9, "corrupt")],
    )
    messages = [batch(2, counters=told_again), batch(0, epoch=LATER, counters=told_again)]
    await store.add_telemetry(messages)
    assert len(place.rows("SELECT * FROM evictions")) == 3
    gone, own, later = sorted((await ledger(store)).epochs, key=lambda each: each.epoch)
    assert own.gaps == [Gap(1, 2, "not_watching"), gap]
    assert own.evicted == [(10, 19, "bytes"), (40, 59, "age")]
    assert own.missing == [(10, 19)]
    assert (later.epoch, later.evicted, later.gaps) == (LATER, [], [Gap(1, 2, "not_watching")])
    # Nothing of this epoch ever came; that it was evicted is all there is to say.
    assert (gone.epoch, gone.batches, gone.evicted) == ("0" * 15 + "1", 0, [(0, 9, "corrupt")])
    assert gone.first_received_unix_ms == NOW_MS


async def test_alerts_are_counted_by_epoch_also_where_no_batch_came(store: Store) -> None:
    await store.add_telemetry([batch(0)])
    await store.add_alerts([alert(0), alert(1), alert(2, epoch=LATER)])
    epochs = (await ledger(store)).epochs
    assert [(each.epoch, each.alerts_stored, each.batches) for each in epochs] == [
        (EPOCH, 2, 1),
        (LATER, 1, 0),
    ]


async def test_tenants_and_agents_are_told_apart_and_can_be_chosen(store: Store) -> None:
    whose = [("acme", "agent-1"), ("acme", "agent-2"), ("other", "agent-1")]
    for tenant, agent in whose:
        own: dict[str, Any] = {"tenant_id": tenant, "agent_id": agent}
        await store.add_telemetry([batch(0, **own)])
        await store.add_invalid([invalid(0, **own), invalid(1, **own, reason="too large")])
    found = await ledger(store, count_rows=True)
    assert [(each.tenant_id, each.agent_id) for each in found.epochs] == whose
    assert found.invalid == {each: {"malformed": 1, "too large": 1} for each in whose}
    assert found.rows == dict.fromkeys(whose, 10)
    chosen = await ledger(store, tenant_id="acme", agent_id="agent-2", count_rows=True)
    assert [each.agent_id for each in chosen.epochs] == ["agent-2"]
    assert set(chosen.invalid) == set(chosen.rows) == {("acme", "agent-2")}
    assert len((await ledger(store, tenant_id="acme")).epochs) == 2


async def test_reasons_are_told_up_to_a_bound_and_the_rest_summed_up(store: Store) -> None:
    rejected = [Rejected(n, f"why {n}") for n in range(40)]
    rejected += [Rejected(n, "common") for n in range(40, 45)]
    await store.add_telemetry([batch(0, events=[], rejected=rejected)])
    await store.add_invalid([invalid(n, reason=f"why {n}") for n in range(30)])
    found = await ledger(store)
    reasons = found.epochs[0].rejected
    assert (len(reasons), sum(reasons.values())) == (21, 45)
    assert (reasons["common"], reasons["other reasons"]) == (5, 21)
    refused = found.invalid["acme", "agent-1"]
    assert (len(refused), sum(refused.values()), refused["other reasons"]) == (21, 30, 10)


async def test_it_says_when_an_agent_was_heard_from_last_also_before_the_range(
    store: Store,
) -> None:
    await store.add_telemetry([batch(0), batch(1)])
    key = ("acme", "agent-1")
    assert (await ledger(store)).heard == {key: NOW_MS + 1}
    assert (await ledger(store, 0, NOW_MS + 1)).heard == {key: NOW_MS}
    day_ms = 86_400_000
    later = await ledger(store, NOW_MS + 6 * day_ms)
    assert (later.epochs, later.heard) == ([], {key: NOW_MS + 1})
    assert (await ledger(store, NOW_MS + 8 * day_ms)).heard == {}
    assert (await ledger(store, agent_id="other")).heard == {}


async def test_rows_are_counted_by_their_reception(store: Store) -> None:
    day_ms = 86_400_000
    for number, received in enumerate((NOW_MS, NOW_MS + 1, NOW_MS + day_ms, 1 << 53)):
        await store.add_telemetry([batch(number, received_at_unix_ms=received)])
    found = await ledger(store, NOW_MS + 1, NOW_MS + day_ms + 1, count_rows=True)
    assert found.rows == {("acme", "agent-1"): 20}
    found = await ledger(store, NOW_MS, (1 << 53) + 1, count_rows=True)
    assert found.rows == {("acme", "agent-1"): 40}


Arrivals = st.lists(
    st.tuples(
        st.integers(0, 4),  # events
        st.sampled_from(["in", "before", "after", "never"]),
        st.booleans(),  # the number's batch is claimed a second time
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(arrivals=Arrivals)
def test_every_number_of_a_span_is_stored_missing_or_outside(
    arrivals: list[tuple[int, str, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(_balance, Path(folder) / "store.db", arrivals)


async def _balance(path: Path, arrivals: list[tuple[int, str, bool]]) -> None:
    received = {"in": NOW_MS, "before": NOW_MS - 1, "after": NOW_MS + 1}
    store = SqliteStore(StoreSettings(url=f"sqlite:{path}"))
    await store.open()
    messages, seq, came = [], 0, set()
    for number, (size, when, twice) in enumerate(arrivals):
        for n in range(1 + twice):
            if when != "never":
                messages.append(
                    batch(
                        number + 100 * n,
                        events=[exit_event()] * size,
                        first_seq=seq,
                        received_at_unix_ms=received[when],
                    )
                )
                came |= set(range(seq, seq + size))
        seq += size
    await store.add_telemetry(messages)
    found = (await ledger(store, NOW_MS, NOW_MS + 1)).epochs
    for each in found:
        span = range(each.first_seq, each.next_seq)
        missing = [n for first, last in each.missing for n in range(first, last + 1)]
        assert missing == [n for n in span if n not in came]
        assert each.missing_events == len(missing)
        assert each.accepted == each.stored + each.rejected.get("overlap", 0)
        assert len(span) == each.stored + each.missing_events + each.outside_events
    await store.close()
