"""The engine of one boot of one agent: determinism, new rules, evidence, repeats and ids."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection import rules
from actors.detection.builtin import builtin_rules, builtin_set
from actors.detection.conditions import Test
from actors.detection.events import AnyEvent, ExecEvent
from actors.detection.process_table import ProcessTable
from actors.detection.programs import Program
from actors.detection.rules import Match, Rule, Step
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from actors.detection.testing import Host
from services.detection.host_engine import HostEngine
from tests.detection.test_engine import histories
from transport.messages import (
    I63_MAX,
    Alert,
    CanonicalBatch,
    Counters,
    Evicted,
    Gap,
    Rejected,
    encode,
    event_id,
)
from transport.messages import Host as HostMessage
from transport.subjects import Address

ADDRESS = Address("acme", "web-1")
BOOT = HostMessage("web", "boot", 1_700_000_000_000_000_000)
EPOCH = "00000000000000aa"
SETTINGS = FilterSettings()
BUILT_IN = builtin_set(SETTINGS)


def made(rules: RuleSet = BUILT_IN, snapshot: bytes | None = None) -> HostEngine:
    return HostEngine(lambda: rules, ADDRESS, BOOT, snapshot)


def batch(first: int, events: Sequence[AnyEvent], **more: Any) -> CanonicalBatch:
    count = len(events) + len(more.get("rejected", ()))
    newest = max((each.time_ns for each in events), default=10**12)
    values: dict[str, Any] = {
        "batch_id": f"{EPOCH}-{first}",
        "agent_id": ADDRESS.agent_id,
        "tenant_id": ADDRESS.tenant_id,
        "host": BOOT,
        "epoch": EPOCH,
        "observed_at_unix_ms": (BOOT.boot_unix_ns + newest) // 1_000_000,
        "first_seq": first,
        "last_seq": first + count - 1,
        "counters": Counters(),
        "events": list(events),
        "received_at_unix_ms": 5,
    }
    return CanonicalBatch(**{**values, **more})


def batches(events: Sequence[AnyEvent], size: int) -> list[CanonicalBatch]:
    return [batch(at, events[at : at + size]) for at in range(0, len(events), size)]


def encoded(alerts: list[Alert]) -> bytes:
    return msgspec.json.encode(alerts)


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(1, 20), st.sets(st.integers(0, 60)))
def test_the_same_batches_give_the_same_bytes_wherever_it_was_restored(
    events: list[AnyEvent], size: int, cuts: set[int]
) -> None:
    whole, parts = made(), made()
    for number, each in enumerate(batches(events, size)):
        if number in cuts:
            parts = made(builtin_set(SETTINGS), parts.snapshot())
        assert encoded(parts.process(each)) == encoded(whole.process(each))
    assert parts.snapshot() == whole.snapshot()


def opening(count: int) -> Host:
    """A host on which several processes of one lineage read a sensitive file."""
    host = Host()
    for _ in range(count):
        cat, _ = host.run(host.bash, "/usr/bin/cat")
        host.open(cat, "/etc/shadow")
    return host


def read(alerts: list[Alert]) -> list[Alert]:
    return [each for each in alerts if each.rule_id == "sensitive-file-read"]


@pytest.mark.parametrize("restored", [False, True])
def test_repeats_are_told_under_the_first_id_when_their_count_has_doubled(
    *, restored: bool
) -> None:
    engine = made()
    told: list[Alert] = []
    for each in batches(opening(20).events, 7):
        told += read(engine.process(each))
        if restored:
            engine = made(snapshot=engine.snapshot())
    assert [each.count for each in told] == [1, 2, 4, 8, 16]
    assert len({each.alert_id for each in told}) == 1
    assert len({each.event_id for each in told}) == 5


def test_repeats_of_another_lineage_are_alerts_of_their_own() -> None:
    host = opening(1)
    cat, _ = host.run(host.init, "/usr/bin/cat")
    host.open(cat, "/etc/shadow")
    told = read(made().process(batch(0, host.events)))
    assert [each.count for each in told] == [1, 1]
    assert len({each.alert_id for each in told}) == 2


def test_the_event_id_is_that_of_the_event_although_some_were_rejected() -> None:
    events = opening(1).events
    rejected = [Rejected(seq, "too long") for seq in (0, 2)]
    (told,) = read(made().process(batch(0, events, rejected=rejected)))
    # The last event: behind all the others and the two that are gone.
    assert told.event_id == event_id(EPOCH, len(events) + 1)
    assert (told.epoch, told.boot_id, told.source) == (EPOCH, "boot", "worker")


def test_new_rules_are_taken_up_between_batches() -> None:
    extra = Rule(
        id="new", label="new", matches=(Match("open", Test("path", "equals", ("/etc/hostname",))),)
    )
    chosen = [BUILT_IN]
    engine = HostEngine(lambda: chosen[-1], ADDRESS, BOOT, None)
    host = Host()
    first, _ = host.run(host.bash, "/usr/bin/bash")
    host.connect(first)
    cut = len(host.events)
    host.open(first, "/etc/hostname")
    host.run(first, "/usr/bin/sh")
    assert "new" not in {each.rule_id for each in engine.process(batch(0, host.events[:cut]))}
    chosen.append(RuleSet(SETTINGS, [*builtin_rules(), extra]))
    told = [each.rule_id for each in engine.process(batch(cut, host.events[cut:]))]
    assert "new" in told
    assert "reverse-shell" in told  # what was begun under the old rules goes on


def evidence(*given: CanonicalBatch) -> Any:
    engine = made()
    return [read(engine.process(each)) for each in given][-1][0].evidence


EVENTS = opening(1).events
CUT = len(EVENTS) // 2


def test_evidence_is_complete_if_nothing_is_missing() -> None:
    assert evidence(*batches(EVENTS, 3)) == "complete"
    assert evidence(batch(0, EVENTS[:CUT]), batch(CUT, []), batch(CUT, EVENTS[CUT:])) == "complete"


@pytest.mark.parametrize(
    ("given", "reason", "count"),
    [
        ((batch(0, EVENTS[:CUT]), batch(CUT + 3, EVENTS[CUT:])), "not_received", 3),
        ((batch(4, EVENTS),), "not_received", 4),
        ((batch(0, EVENTS, rejected=[Rejected(0, "x")]),), "rejected_by_ingest", 1),
        (
            (batch(0, EVENTS, counters=Counters(evicted=[Evicted(EPOCH, 5, 9, "age")])),),
            "evicted: age",
            5,
        ),
    ],
    ids=["a batch", "the first batches", "rejected", "evicted"],
)
def test_evidence_names_what_is_missing(
    given: tuple[CanonicalBatch, ...], reason: str, count: int
) -> None:
    (gap,) = evidence(*given)
    assert (gap.reason, gap.events) == (reason, count)


@pytest.mark.parametrize("run", [(10, 0), (0, I63_MAX), (I63_MAX, 0), (5, 9)])
def test_an_alert_decodes_again_whatever_an_agent_says_was_evicted(run: tuple[int, int]) -> None:
    told = Counters(evicted=[Evicted(EPOCH, *run, "age")])
    engine = made()
    engine.process(batch(I63_MAX - 1, [], counters=told))
    (alert,) = engine.process(batch(0, EVENTS, counters=told))
    assert msgspec.json.decode(encode(alert), type=type(alert)) == alert
    made(snapshot=engine.snapshot())


def test_evidence_has_the_gaps_an_agent_tells_if_they_are_recent() -> None:
    now = batch(0, EVENTS).observed_at_unix_ms
    recent, old = Gap(now - 9000, now - 8000, "x"), Gap(now - 99_000, now - 98_000, "y")
    assert evidence(batch(0, EVENTS, counters=Counters(gaps=[old, recent]))) == [recent]


def test_a_batch_that_comes_late_is_no_new_gap() -> None:
    one, two, three = EVENTS[:2], EVENTS[2:4], EVENTS[4:]
    found = evidence(
        batch(0, one), batch(4, three[:-1]), batch(2, two), batch(len(EVENTS) - 1, three[-1:])
    )
    assert [each.reason for each in found] == ["not_received"]


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"\x80"])
def test_other_bytes_are_no_snapshot(raw: bytes) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        made(snapshot=raw)


def test_an_event_that_makes_the_engine_fail_does_not_cost_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host()
    first, _ = host.run(host.bash, "/usr/bin/cat")
    bad, _ = host.run(host.bash, "/usr/bin/poison")
    host.open(first, "/etc/shadow")
    taken = ProcessTable.program_of

    def fail(table: ProcessTable, event: ExecEvent) -> Program:
        if event.exe.endswith("poison"):
            raise RuntimeError("this one is bad")
        return taken(table, event)

    monkeypatch.setattr(ProcessTable, "program_of", fail)
    engine = made()
    (alert,) = engine.process(batch(40, host.events))
    position = next(
        index
        for index, event in enumerate(host.events)
        if isinstance(event, ExecEvent) and event.identity == bad
    )
    assert engine.poisoned == [(40 + position, "RuntimeError('this one is bad')")]
    assert alert.event_id == event_id(EPOCH, 40 + len(host.events) - 1)
    engine.process(batch(100, ()))
    assert engine.poisoned == []


def test_a_long_sequence_looks_back_as_far_for_gaps_as_for_events() -> None:
    sequence = rules.Sequence(
        id="slow",
        label="slow",
        steps=(Step((Match("exec", Test("exe", "endswith", ("/cat",))),)),),
        count=2,
        scope="host",
        window_secs=3600,
    )
    host = Host()
    host.run(host.bash, "/usr/bin/cat")
    host.wait(600)
    host.run(host.bash, "/usr/bin/cat")
    at_ms = (BOOT.boot_unix_ns + host.events[-1].time_ns) // 1_000_000
    gap = Gap(at_ms - 300_000, at_ms - 299_000, "lost_in_kernel_exec", 1)
    engine = made(RuleSet(SETTINGS, [sequence]))
    (alert,) = engine.process(batch(0, host.events, counters=Counters(gaps=[gap])))
    assert alert.evidence == [gap]
