"""What detection forgets for lack of room: of whoever fills its tables, said, and nobody else's."""

from __future__ import annotations

import msgspec
import pytest

from actors.detection import snapshots
from actors.detection.alerts import Alert
from actors.detection.events import AnyEvent, Identity
from actors.detection.testing import TICK_NS, Host, rules
from services.detection.host_engine import HostEngine
from tests.services.detection.test_host_engine import batch, made
from transport import messages

BASH, SH, CAT, LS = "/usr/bin/bash", "/usr/bin/sh", "/usr/bin/cat", "/usr/bin/ls"
REVERSE, CREDENTIAL = "reverse-shell", "credential-access-execution"
CUT = "detection-state-cut"
FLOODER = 1000


class Users(Host):
    """A host whose processes act as one user or another."""

    uid = 0

    def emit(self, event: AnyEvent) -> list[Alert]:
        """As whoever acts now."""
        if hasattr(event, "uid"):
            event = msgspec.structs.replace(event, uid=self.uid)
        found = super().emit(event)
        self.now_ns -= 990_000  # ten microseconds an event: floods are fast
        return found

    def session(self, uid: int) -> Identity:
        """A shell of a user, in a lineage of its own."""
        self.uid = uid
        return self.run(self.fork(self.sshd), BASH)[0]

    def flood(self, parent: Identity, count: int, *, ends: bool) -> list[Alert]:
        """Tiny programs called bash, one after the other."""
        told: list[Alert] = []
        for number in range(count):
            child, alerts = self.run(parent, f"/tmp/{number % 8}/bash", system=False)
            told += alerts
            if ends:
                self.exit(child)
            self.events.clear()
        return told


def half_a_chain(host: Users, parent: Identity) -> Identity:
    shell, _ = host.run(parent, BASH)
    host.connect(shell)
    return shell


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "running"])
def test_another_users_flood_cuts_no_partial_match(*, ends: bool) -> None:
    host = Users(max_processes=1024)
    quiet, loud = host.session(0), host.session(FLOODER)
    host.uid = 0
    shell = half_a_chain(host, quiet)
    host.uid = FLOODER
    told = host.flood(loud, 20_000, ends=ends)
    host.uid = 0
    assert REVERSE in rules(host.run(shell, SH)[1])
    cuts = [each for each in told if each.rule_id == CUT]
    assert bool(cuts) is not ends
    assert all(f"user {FLOODER}" in each.detail and "bash" in each.detail for each in cuts)
    assert all(each.uid == FLOODER for each in cuts)
    assert len(cuts) <= 24, "repeats collapse"


def test_a_flood_of_the_same_lineage_that_ends_cuts_nothing() -> None:
    host = Users(max_processes=1024)
    session = host.session(FLOODER)
    shell = half_a_chain(host, session)
    told = host.flood(session, 20_000, ends=True)
    assert CUT not in rules(told)
    assert REVERSE in rules(host.run(shell, SH)[1])


@pytest.mark.parametrize("forks", [15, 16, 17, 31, 32, 33, 64, 200])
@pytest.mark.parametrize("ends", [True, False], ids=["ended", "running"])
def test_no_number_of_forks_ends_a_sequence(forks: int, *, ends: bool) -> None:
    host = Users()
    shell = half_a_chain(host, host.session(FLOODER))
    assert REVERSE in rules(host.run(down(host, shell, forks, ends=ends), SH)[1])


@pytest.mark.parametrize("others", [0, 300])
@pytest.mark.parametrize("ends", [True, False], ids=["ended", "running"])
def test_more_forks_than_processes_are_remembered_do_not_end_it(others: int, *, ends: bool) -> None:
    host = Users(max_processes=256)
    session, other = host.session(FLOODER), host.session(FLOODER)
    for _ in range(others):
        host.run(other, LS)
    shell = half_a_chain(host, session)
    below = down(host, shell, 1500, ends=ends)
    taken = snapshots.take(host.engine)
    host.engine = snapshots.restore(host.engine.rules, taken)
    assert REVERSE in rules(host.run(down(host, below, 1500, ends=ends), SH)[1])
    assert host.engine.statistics().table.processes <= 256


def test_steps_that_are_many_forks_apart_are_one_sequence() -> None:
    host = Users()
    shell, _ = host.run(host.session(FLOODER), BASH)
    below = down(host, shell, 50, ends=True)
    host.connect(below)
    assert REVERSE in rules(host.run(down(host, below, 50, ends=True), SH)[1])


def test_many_forks_within_one_tick_do_not_end_it() -> None:
    host = Users()
    shell = half_a_chain(host, host.session(FLOODER))
    host.now_ns += TICK_NS - host.now_ns % TICK_NS  # forks take ten microseconds here
    below = down(host, shell, 100, ends=False)
    assert below[1] - shell[1] <= 2 * TICK_NS
    assert REVERSE in rules(host.run(below, SH)[1])


def test_sessions_stay_apart_however_deep_they_are() -> None:
    host = Users()
    half_a_chain(host, host.session(FLOODER))
    other = down(host, host.session(FLOODER), 100, ends=True)
    assert REVERSE not in rules(host.run(other, SH)[1])


def down(host: Users, process: Identity, forks: int, *, ends: bool) -> Identity:
    for _ in range(forks):
        child = host.fork(process)
        if ends:
            host.exit(process)
        process = child
    return process


def test_evidence_of_what_comes_after_a_cut_says_so() -> None:
    host = Users(max_processes=256)
    engine = made(host.engine.rules)
    quiet, loud = host.session(0), host.session(FLOODER)
    before = after(engine, host, quiet)
    assert before.evidence == "complete"
    host.uid = FLOODER
    for _ in range(1000):
        host.run(loud, BASH)
    found = after(engine, host, quiet)
    assert found.evidence != "complete"
    assert {gap.reason for gap in found.evidence} <= {"partial_matches_cut", "processes_forgotten"}
    assert sum(gap.events or 0 for gap in found.evidence) > 500
    again = made(host.engine.rules, engine.snapshot())
    host.wait(1)
    assert after(again, host, quiet).evidence != "complete", "a snapshot remembers it"
    host.wait(100)
    assert after(again, host, quiet).evidence == "complete"


_sent: dict[int, int] = {}


def after(engine: HostEngine, host: Users, parent: Identity) -> messages.Alert:
    """The alert of a file that is read once all events so far were processed."""
    host.uid = 0
    thief, _ = host.run(parent, CAT)
    host.open(thief, f"/srv/{host.now_ns}/etc/shadow")
    events, host.events = host.events, []
    first = _sent.get(id(host), 0)
    _sent[id(host)] = first + len(events)
    told = engine.process(batch(first, events))
    return next(each for each in reversed(told) if each.rule_id == "sensitive-file-read")
