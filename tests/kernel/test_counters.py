"""Counters: under flood, every event of every probe is accounted for, exactly."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bpf.records import PROBES
from tests.kernel.endpoint import Endpoint, Line, assert_balanced, endpoint

OPENS = 40_000
OPEN_FLOOD = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
/* Opens the file in its first argument, and one that is not there, many times. */
int main(int argc, char **argv) {
  for (int i = 0; i < atoi(argv[2]); i++) {
    close(open(argv[1], O_RDONLY));
    open("/nowhere/at/all", O_RDONLY);
  }
}
"""
EXECS = 600
EXEC_FLOOD = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
  for (int i = 0; i < atoi(argv[1]); i++) {
    if (!vfork()) { execl("/bin/true", "true", (char *)0); _exit(1); }
    wait(0);
  }
}
"""


def flood(build: Callable[[str], Path], path: Path) -> tuple[int, int]:
    """Opens and execs at full speed, both at once; the pids of the two."""
    opener = subprocess.Popen([build(OPEN_FLOOD), path, str(OPENS)])
    starter = subprocess.Popen([build(EXEC_FLOOD), str(EXECS)])
    assert (opener.wait(60), starter.wait(60)) == (0, 0)
    return opener.pid, starter.pid


def last_counts(running: Endpoint) -> dict[str, dict[str, int]]:
    """Stop the agent; what its probes counted to the end."""
    assert running.stop() == 0
    line: Line = running.stopped()
    probes: dict[str, dict[str, int]] = line["probes"]
    assert_balanced(probes)
    return probes


@pytest.mark.parametrize(
    ("opens", "repeats"),
    [(opens, repeats) for opens in ("all", "written", "sensitive") for repeats in ("0", "60")],
)
def test_seen_is_delivered_filtered_suppressed_and_lost(
    build: Callable[[str], Path], tmp_path: Path, opens: str, repeats: str
) -> None:
    record, secret = tmp_path / "events", tmp_path / ".ssh" / "id_rsa"
    secret.parent.mkdir()
    secret.touch()
    with endpoint(
        record=record,
        LAVENDER_FILTERS__OPEN_EVENTS=opens,
        LAVENDER_AGENT__OPEN_REPEAT_SECS=repeats,
    ) as running:
        opener, starter = flood(build, secret)
        running.settle()
        probes = last_counts(running)
    assert running.recording is not None
    events = running.recording.refresh()

    whole = (
        probes["open"]["lost"] == probes["open"]["throttled"] == 0
        and running.stopped()["dropped_by_actors"] == 0
    )
    assert probes["open"]["seen"] >= 2 * OPENS
    if whole:
        mine = [event.get("filename") for event in events if event["pid"] == opener]
        assert mine.count(str(secret)) == (1 if repeats != "0" else OPENS)
    if opens != "all":
        assert probes["open"]["filtered"] >= OPENS  # the file that is not there
    if repeats != "0":
        assert probes["open"]["suppressed"] >= OPENS - 1
        assert probes["open"]["lost"] == 0

    children = [event for event in events if event["type"] == "exec" and event["ppid"] == starter]
    assert probes["exec"]["lost"] == 0
    assert len(children) == EXECS
    for probe, counts in probes.items():
        seen = sum(1 for event in events if event["type"] == probe)
        # What others did between the last sweep and the last look at the counters is not recorded.
        if whole:
            assert 0 <= counts["delivered"] - seen <= 50, f"{probe}: {counts}, recorded {seen}"


def test_what_a_flood_at_full_speed_costs_is_counted_and_said(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    with endpoint(
        "--output",
        "none",
        LAVENDER_FILTERS__OPEN_EVENTS="all",
        LAVENDER_AGENT__OPEN_REPEAT_SECS="0",
    ) as running:
        subprocess.run([build(OPEN_FLOOD), path, str(5 * OPENS)], check=True)
        probes = last_counts(running)
    # How much may be lost is the benchmark's to say; here, that not one is unaccounted for.
    opens = probes["open"]
    assert opens["delivered"] + opens["throttled"] + opens["lost"] >= 10 * OPENS
    lost, throttled = (
        sum(counts[word] for counts in probes.values()) for word in ("lost", "throttled")
    )
    assert running.stopped()["lost_in_kernel"] == lost
    assert running.stopped()["throttled_in_kernel"] == throttled
    assert running.stopped()["level"] == ("warning" if lost or throttled else "info")


def test_a_status_record_has_every_counter() -> None:
    with endpoint(LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS="0.1") as running:
        status = running.wait_for(lambda: next(iter(running.statuses[2:]), None))
        assert running.stop() == 0
    assert set(status["probes"]) == {*PROBES, "witness"}
    assert_balanced(status["probes"])
    assert status["agent_id"] == "dev-agent-1"
    assert status["uptime_secs"] > 0
    assert {"forks", "execs", "exits", "opens", "connects", "late", "alerts", "table"} <= set(
        status["detection"]
    )
    for counts in status["actors"].values():
        assert {"received", "handled", "depth", "restarts", "items_dropped"} <= set(counts)
