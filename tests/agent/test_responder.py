import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from actors.agent import responder
from actors.agent.messages import AlertBatch, Response
from actors.agent.responder import Responder, Verdict, kill
from actors.agent.seeds import ancestors_of, start_ns_of
from actors.agent.settings import ResponseSettings
from actors.detection.events import Identity
from actors.runtime.testing import run_actor
from bpf.records import TICK_NS
from tests.agent.cast import alert


class Hand:
    """Kills nobody, and remembers whom it should have."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.asked: list[Identity] = []
        self.verdicts = list(verdicts)

    def __call__(self, identity: Identity) -> Verdict:
        self.asked.append(identity)
        return self.verdicts.pop(0) if self.verdicts else Verdict("killed", "done")


async def decide(
    *alerts: Any, hand: Hand, spared: tuple[int, ...] = (), live: bool = True, **settings: Any
) -> list[Response]:
    """What the responder tells of each alert, each in a batch of its own."""
    chosen = ResponseSettings(**{"dry_run": False, "kill_threshold": 200, **settings})
    actor = Responder(settings=chosen, spared=spared, live=live, act=hand)
    async with run_actor(actor) as stage:
        for each in alerts:
            await stage.tell(AlertBatch([each]))
        return [response for batch in stage.told for response in batch.responses]


@pytest.mark.parametrize(("score", "killed"), [(199, 0), (200, 1), (1000, 1)])
async def test_kills_from_the_threshold_on(score: int, killed: int) -> None:
    hand = Hand()
    responses = await decide(alert(score=score), hand=hand)
    assert [response.action for response in responses] == ["killed"] * killed
    assert hand.asked == [(4242, 10_000_000)] * killed


async def test_a_response_says_what_of_whom_and_why() -> None:
    begin = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    (response,) = await decide(alert(), hand=Hand(Verdict("failed", "no permission")))
    assert response.time_ns >= begin
    assert response == Response(
        pid=4242,
        start_ns=10_000_000,
        comm="nc",
        action="failed",
        reason="no permission",
        dry_run=False,
        score=250,
        rule="Reverse shell",
        time_ns=response.time_ns,
    )


async def test_a_dry_run_touches_nobody_and_says_whom_it_would_have() -> None:
    hand = Hand()
    responses = await decide(alert(), alert(), hand=hand, dry_run=True)
    assert [(each.action, each.dry_run) for each in responses] == [("would_kill", True)] * 2
    assert hand.asked == []


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_protected_program_of_the_systems_own_is_left_alone(*, dry_run: bool) -> None:
    hand = Hand()
    sshd = alert(comm="sshd", exe="/usr/sbin/sshd", system_exe=True)
    (response,) = await decide(sshd, hand=hand, dry_run=dry_run)
    assert response.action == "protected"
    assert response.reason == "sshd is in protected_comms and the system's own"
    assert hand.asked == []


@pytest.mark.parametrize(
    "impostor",
    [
        {"comm": "sshd", "exe": "/tmp/sshd", "system_exe": False},
        {"comm": "sshd", "exe": "/usr/bin/nc", "system_exe": True},
        {"comm": "sshd", "exe": "", "system_exe": True},
    ],
)
async def test_a_protected_name_alone_protects_nobody(impostor: dict[str, Any]) -> None:
    hand = Hand()
    (response,) = await decide(alert(**impostor), hand=hand)
    assert response.action == "killed"


@pytest.mark.parametrize("pid", [0, 1, 77])
async def test_init_and_those_named_are_spared(pid: int) -> None:
    hand = Hand()
    (response,) = await decide(alert(pid=pid), hand=hand, spared=(77,))
    assert response.action == "protected"
    assert hand.asked == []


async def test_the_agent_spares_itself_and_its_ancestors() -> None:
    spared = ancestors_of(os.getpid())
    assert {os.getpid(), os.getppid()} <= spared
    hand = Hand()
    alerts = [alert(pid=os.getpid()), alert(pid=os.getppid())]
    responses = await decide(*alerts, hand=hand, spared=tuple(spared))
    assert [response.action for response in responses] == ["protected", "protected"]


@pytest.mark.parametrize("action", ["killed", "gone"])
async def test_a_process_killed_or_gone_is_settled(action: str) -> None:
    hand = Hand(Verdict(action, ""))
    other = alert(start_ns=20_000_000)
    responses = await decide(alert(), alert(score=300), other, hand=hand)
    assert len(responses) == 2
    assert hand.asked == [(4242, 10_000_000), (4242, 20_000_000)]


async def test_a_kill_that_failed_is_tried_again_with_the_next_alert() -> None:
    hand = Hand(Verdict("failed", "not now"), Verdict("killed", ""))
    responses = await decide(alert(), alert(), alert(), hand=hand)
    assert [response.action for response in responses] == ["failed", "killed"]


async def test_what_is_settled_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "_REMEMBERED_MAX", 2)
    hand = Hand()
    alerts = [alert(pid=pid) for pid in (11, 12, 13, 13, 11)]
    await decide(*alerts, hand=hand)
    assert [pid for pid, _ in hand.asked] == [11, 12, 13, 11]


async def test_in_a_replay_nothing_is_done() -> None:
    hand = Hand()
    assert await decide(alert(), hand=hand, live=False) == []
    assert hand.asked == []


# On real processes


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A child that sleeps."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        return


def start_of(pid: int) -> int:
    start_ns = start_ns_of(pid)
    assert start_ns is not None
    return start_ns


def test_kills_exactly_the_process_meant(sleeper: int) -> None:
    other = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:
        assert kill((sleeper, start_of(sleeper))).action == "killed"
        _, status = os.waitpid(sleeper, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert os.waitpid(other, os.WNOHANG) == (0, 0)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


def test_another_process_under_the_same_pid_lives(sleeper: int) -> None:
    verdict = kill((sleeper, start_of(sleeper) - TICK_NS))
    assert verdict == Verdict("gone", "the pid belongs to another process by now")
    assert os.waitpid(sleeper, os.WNOHANG) == (0, 0)


def test_a_process_that_has_ended_is_gone(sleeper: int) -> None:
    identity = (sleeper, start_of(sleeper))
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)
    assert kill(identity) == Verdict("gone", "the process had ended")


def test_a_process_that_ends_between_the_look_and_the_kill_is_gone(
    sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = (sleeper, start_of(sleeper))

    def look(pid: int) -> int:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return identity[1]

    monkeypatch.setattr(responder, "start_ns_of", look)
    assert kill(identity) == Verdict("gone", "the process had ended")


def test_what_the_kernel_refuses_is_said(sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    identity = (sleeper, start_of(sleeper))
    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    assert kill(identity) == Verdict("failed", "pidfd_send_signal: Operation not permitted")
    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert kill(identity) == Verdict("failed", "pidfd_open: Operation not permitted")


def test_no_descriptor_is_left_behind(sleeper: int) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    kill((sleeper, 1))
    kill((sleeper, start_of(sleeper)))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_whole_responder_kills_a_real_process_once(sleeper: int) -> None:
    settings = ResponseSettings(dry_run=False)
    actor = Responder(settings=settings, spared=ancestors_of(os.getpid()))
    deadly = alert(pid=sleeper, start_ns=start_of(sleeper), comm="sleep", exe="/tmp/sleep")
    with structlog.testing.capture_logs() as logs:
        async with run_actor(actor) as stage:
            await stage.tell(AlertBatch([deadly, deadly]))
            (batch,) = stage.told
    assert [response.action for response in batch.responses] == ["killed"]
    _, status = os.waitpid(sleeper, 0)  # noqa: ASYNC222 - it is dead, or the test is lost
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert logs == []
