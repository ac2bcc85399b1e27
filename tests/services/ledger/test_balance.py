from typing import Any

import msgspec

from services.ledger.balance import Account, accounts
from services.ledger.render import to_json, to_text
from services.store.interface import EpochFacts, LedgerFacts
from tests.services.messages import EPOCH, counted
from transport.messages import Counters, Gap, ProbeCounts

OTHER = "00000000000000bb"
NOW_MS = 1_800_000_000_000


def facts(**changes: Any) -> EpochFacts:
    """An epoch of 1,000 events that all arrived."""
    values: dict[str, Any] = {
        "tenant_id": "acme",
        "agent_id": "web-1",
        "epoch": EPOCH,
        "first_received_unix_ms": 1,
        "last_received_unix_ms": 2,
        "batches": 2,
        "first_seq": 0,
        "next_seq": 1000,
        "accepted": 1000,
        "stored": 1000,
        "rejected": {},
        "missing": [],
        "missing_events": 0,
        "outside_events": 0,
        "counters": counted(read=1000, spooled=1000),
        "counters_before": None,
        "alerts_stored": 0,
    }
    return EpochFacts(**{**values, **changes})


def account(*epochs: EpochFacts, **changes: Any) -> Account:
    (found,) = accounts(LedgerFacts(epochs, **changes), at_unix_ms=NOW_MS)
    return found


def counters(**changes: Any) -> Counters:
    return msgspec.structs.replace(counted(read=1000, spooled=1000), **changes)


def test_what_arrived_whole_balances() -> None:
    found = account(facts())
    assert found.problems == []
    assert (found.seen, found.delivered, found.read, found.spooled) == (1000,) * 4
    assert (found.accepted, found.stored, found.missing) == (1000, 1000, 0)


def test_what_the_kernel_kept_back_stands_beside_what_it_delivered() -> None:
    probes = {
        "open": ProbeCounts(seen=2000, delivered=800, filtered=900, suppressed=200, lost=100),
        "exec": ProbeCounts(seen=200, delivered=200),
    }
    found = account(facts(counters=counters(probes=probes)))
    assert (found.seen, found.filtered, found.suppressed, found.lost) == (2200, 900, 200, 100)
    assert found.problems == []


def test_events_without_a_trace_are_missing_and_named() -> None:
    found = account(facts(missing=[(10, 14)], missing_events=5, accepted=995, stored=995))
    assert found.missing == 5
    assert found.problems == ["5 spooled events have not arrived"]


def test_the_beginning_of_an_epoch_can_be_missing_too() -> None:
    assert account(facts(first_seq=100, accepted=900, stored=900)).missing == 100


def test_evicted_events_are_accounted_for() -> None:
    found = account(
        facts(
            first_seq=100,
            missing=[(500, 509)],
            missing_events=10,
            accepted=890,
            stored=890,
            evicted=[(0, 99, "bytes"), (500, 509, "age"), (1000, 1099, "bytes")],
        )
    )
    assert found.evicted == {"bytes": 200, "age": 10}
    assert (found.missing, found.spooled, found.problems) == (0, 1100, [])


def test_runs_told_again_as_they_grew_count_once() -> None:
    runs = [(0, 49, "bytes"), (0, 79, "bytes"), (0, 99, "bytes"), (90, 120, "age")]
    found = account(facts(first_seq=100, accepted=900, stored=900, evicted=runs))
    assert (found.evicted, found.missing, found.problems) == ({"bytes": 100}, 0, [])


def test_a_run_that_reaches_over_events_that_came_takes_only_what_is_missing() -> None:
    found = account(
        facts(
            missing=[(10, 19), (500, 509)],
            missing_events=20,
            accepted=980,
            stored=980,
            evicted=[(0, 999, "corrupt")],
        )
    )
    assert (found.evicted, found.missing) == ({"corrupt": 20}, 0)


def test_rejected_events_are_accounted_for() -> None:
    found = account(facts(rejected={"bad pid": 3}, accepted=997, stored=997))
    assert (found.rejected, found.problems) == ({"bad pid": 3}, [])


def test_an_overlap_was_accepted_and_not_stored() -> None:
    assert account(facts(accepted=1005, rejected={"overlap": 5})).problems == []
    assert account(facts(accepted=1005)).problems == ["5 accepted events are not stored"]


def test_a_range_begins_where_the_batch_before_it_ended() -> None:
    found = account(
        facts(
            first_seq=600,
            accepted=400,
            stored=400,
            counters_before=counted(read=600, spooled=600),
        )
    )
    assert (found.seen, found.read, found.spooled, found.missing) == (400, 400, 400, 0)


def test_a_restart_that_takes_up_the_probes_counts_them_once() -> None:
    first = facts(counters=counted(read=1000, spooled=1000))
    second = facts(
        epoch=OTHER,
        counters=counters(probes={"exec": ProbeCounts(seen=2007, delivered=2007)}),
    )
    found = account(first, second)
    assert (found.epochs, found.seen, found.read, found.in_rings) == (2, 2007, 2000, 7)
    assert found.problems == []


def test_what_stayed_in_the_rings_of_probes_that_are_gone_is_told() -> None:
    first = facts(counters=counters(probes={"exec": ProbeCounts(seen=1030, delivered=1030)}))
    second = facts(epoch=OTHER, counters=counters(load_id=OTHER))
    found = account(first, second)
    assert (found.abandoned, found.in_rings) == (30, 0)


def test_alerts_that_did_not_arrive_are_a_problem() -> None:
    raised = counted(read=1000, spooled=1000, alerts=3)
    assert account(facts(counters=raised, alerts_stored=3)).problems == []
    assert account(facts(counters=raised)).problems == ["3 alerts have not arrived"]


def test_processes_that_ran_before_come_from_no_ring() -> None:
    seeded = msgspec.structs.replace(counted(read=900, spooled=1000), seeds=100)
    found = account(facts(counters=seeded))
    assert (found.problems, found.seeds, found.read, found.in_rings) == ([], 100, 900, 0)
    assert "seeds" in to_text([found])


def test_counters_that_do_not_add_up_are_a_problem() -> None:
    found = account(facts(counters=counters(read=1001)))
    assert "the agent's counters do not add up" in found.problems
    found = account(facts(counters=counters(probes={"exec": ProbeCounts(seen=9)})))
    assert "the kernel's counters do not add up" in found.problems


def test_counted_rows_are_compared() -> None:
    key = ("acme", "web-1")
    assert account(facts(), rows={key: 1000}).problems == []
    assert account(facts(), rows={key: 999}).problems == [
        "the tables hold 999 events, the ledger 1000"
    ]


def test_an_agent_of_which_only_refusals_are_known_has_an_account() -> None:
    found = account(invalid={("acme", "web-1"): {"wrong_subject": 4}})
    assert found.invalid_messages == {"wrong_subject": 4}
    assert "4 messages refused: wrong_subject" in to_text([found])


def test_people_and_programs_read_the_same_numbers() -> None:
    found = account(facts(gaps=[Gap(1, 2, "lost_in_kernel_open", 7)], missing_events=5))
    text = to_text([found])
    assert "acme/web-1" in text
    assert "gap 1 to 2 ms: lost_in_kernel_open, 7 events" in text
    assert "NOT BALANCED: 5 spooled events have not arrived" in text
    record = msgspec.json.decode(to_json([found]))
    assert (record["balanced"], record["agents"][0]["missing"]) == (False, 5)
    assert "no agent" in to_text([])


def heard(at_unix_ms: int, **changes: Any) -> Account:
    key = ("acme", "web-1")
    (found,) = accounts(
        LedgerFacts([facts()], heard={key: at_unix_ms}), at_unix_ms=NOW_MS, **changes
    )
    return found


def test_the_ledger_says_up_to_when_it_knows() -> None:
    found = heard(NOW_MS - 5000)
    assert (found.as_of_unix_ms, found.silent, found.balanced) == (NOW_MS - 5000, False, True)
    text = to_text([found])
    assert "acme/web-1  (1 starts, as of 2027-01-15T07:59:55.000Z)" in text
    assert "\n  balanced\n" in text


def test_a_silent_agent_does_not_balance() -> None:
    found = heard(NOW_MS - 61_000)
    assert (found.problems, found.silent, found.balanced) == ([], True, False)
    text = to_text([found])
    assert "SILENT since 2027-01-15T07:58:59.000Z: nothing is known of later" in text
    assert "  balanced" not in text
    assert msgspec.json.decode(to_json([found]))["balanced"] is False
    assert not heard(NOW_MS - 61_000, silent_after_ms=120_000).silent


def test_an_agent_that_was_heard_from_before_the_range_alone_is_silent() -> None:
    (found,) = accounts(LedgerFacts([], heard={("acme", "web-1"): 7}), at_unix_ms=NOW_MS)
    assert (found.silent, found.epochs) == (True, 0)


def test_whoever_sends_cannot_make_reasons_without_end() -> None:
    reasons = {f"why {n}": 1 for n in range(1000)} | {"overlap": 1, "common": 500}
    found = account(facts(rejected=reasons))
    assert len(found.rejected) == 21
    assert sum(found.rejected.values()) == 1501
    assert (found.rejected["common"], found.rejected["overlap"]) == (500, 1)
    assert found.rejected["other reasons"] == 982
