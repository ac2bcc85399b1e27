"""What the running agent may still do: almost nothing."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf.records import RINGS
from bpf.source import ATTACHMENTS
from tests.kernel.endpoint import Endpoint, endpoint

KILL = 1 << 5
FILTER = "2"
"""A mode of seccomp (proc(5))."""
RSS_MAX_BYTES = 60 << 20


@pytest.fixture(scope="module", params=["true", "false"])
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Endpoint, bool]]:
    dry_run: str = request.param
    with endpoint(
        LAVENDER_RESPONSE__DRY_RUN=dry_run, LAVENDER_RESPONSE__KILL_THRESHOLD="10000"
    ) as agent:
        yield agent, dry_run == "true"
        assert agent.stop() == 0


def statuses(agent: Endpoint) -> list[dict[str, str]]:
    """/proc/<pid>/status of each thread of the agent."""
    tasks = Path(f"/proc/{agent.pid}/task").iterdir()
    texts = [(task / "status").read_text() for task in tasks]
    return [dict(line.split(":\t", 1) for line in text.splitlines()) for text in texts]


def test_it_runs_as_an_unprivileged_user_with_no_capability_but_one_to_kill_where_it_is_to(
    running: tuple[Endpoint, bool],
) -> None:
    agent, dry_run = running
    needed = 0 if dry_run else KILL
    user = next(entry for entry in pwd.getpwall() if entry.pw_name in ("lavender", "nobody"))
    for status in statuses(agent):
        assert status["Uid"].split() == [str(user.pw_uid)] * 4
        assert status["Gid"].split() == [str(user.pw_gid)] * 4
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == needed
        assert int(status["CapPrm"], 16) == needed
        assert int(status["CapInh"], 16) == 0
        assert int(status["CapAmb"], 16) == 0
        assert int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == FILTER


def test_the_loader_is_gone(running: tuple[Endpoint, bool]) -> None:
    agent, _ = running
    for task in Path(f"/proc/{agent.pid}/task").iterdir():
        assert (task / "children").read_text() == ""


def test_it_holds_nothing_it_does_not_need(running: tuple[Endpoint, bool]) -> None:
    agent, _ = running
    folder = Path(f"/proc/{agent.pid}/fd")
    kinds = [os.readlink(entry) for entry in folder.iterdir()]  # noqa: PTH115 - not a real path
    assert not [kind for kind in kinds if "bpf-prog" in kind]
    assert sum("bpf_link" in kind for kind in kinds) == len(ATTACHMENTS)
    # Python's mappings hold a descriptor each: three of a ring, one of policy and counters each.
    assert sum("bpf-map" in kind for kind in kinds) == 4 * len(RINGS) + 2 * 2
    # The host's root, a place alone: one of the marks', one of who asks for the host's own files.
    assert kinds.count("/") <= 2
    assert sum("anon_inode:bpf" not in kind and kind != "/" for kind in kinds) < 16


def test_it_is_small(running: tuple[Endpoint, bool]) -> None:
    agent, _ = running
    assert agent.rss_bytes() < RSS_MAX_BYTES
