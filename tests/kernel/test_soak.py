"""A mixed flood, for seconds in the usual run and for minutes as a soak: all of it adds up, nothing
grows, nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.kernel.endpoint import Endpoint, Line, assert_balanced, endpoint
from tests.shipped import shipped_for_all

SHORT_SECS = 12.0
SOAK_SECS = float(os.environ.get("TESTS_SOAK_SECS", "600"))
WARM_UP = 0.3
"""Part of the time in which memory may grow: tables and caches fill to their bounds."""
GROWTH_MAX_BYTES = 6 << 20

MIXED = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
/* Rounds of one exec, one bare fork, two connects and 20 opens, so many rounds a second; at the
 * end it prints how many rounds there were. */
int main(int argc, char **argv) {
  double seconds = atof(argv[1]);
  int rate = atoi(argv[2]);
  char *sensitive = argv[3], *plain = argv[4];
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
  struct timespec begin, now, due;
  long rounds = 0;
  to.sin_addr.s_addr = inet_addr("127.0.0.1");
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (;;) {
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 > seconds) break;
    if (!vfork()) { execl("/bin/true", "true", "soak", (char *)0); _exit(1); }
    if (!fork()) _exit(0);
    for (int i = 0; i < 2; i++) {
      int fd = socket(AF_INET, i ? SOCK_DGRAM : SOCK_STREAM, 0);
      connect(fd, (void *)&to, sizeof to);
      close(fd);
    }
    for (int i = 0; i < 10; i++) {
      close(open(sensitive, O_RDONLY));
      close(open(plain, O_RDONLY));
    }
    while (waitpid(-1, 0, 0) > 0) {}
    rounds++;
    long next = rounds * (1000000000L / rate);
    due.tv_sec = begin.tv_sec + (begin.tv_nsec + next) / 1000000000L;
    due.tv_nsec = (begin.tv_nsec + next) % 1000000000L;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, 0);
  }
  printf("%ld\n", rounds);
}
"""
ROUNDS_PER_SEC = 150


def endure(running: Endpoint, program: Path, secret: Path, *, seconds: float) -> int:
    """Flood for a while, watching memory and descriptors; how many rounds there were."""
    plain = secret.parent / "plain"
    plain.touch()
    began = time.monotonic()
    samples: list[tuple[float, int, int]] = []
    with subprocess.Popen(
        [program, str(seconds), str(ROUNDS_PER_SEC), secret, plain], stdout=subprocess.PIPE
    ) as flood:
        while flood.poll() is None:
            at = time.monotonic() - began
            samples.append((at, running.rss_bytes(), running.descriptors()))
            assert running.process.poll() is None
            # A test that keeps ten minutes of lines would be what runs out of memory.
            running.forget_events()
            time.sleep(0.25)
        stdout, _ = flood.communicate()
    assert flood.returncode == 0
    warm = [each for each in samples if seconds * WARM_UP < each[0] < seconds * (WARM_UP + 0.2)]
    late = [each for each in samples if each[0] > seconds * 0.8]
    for grows, most in ((1, GROWTH_MAX_BYTES), (2, 1)):
        # Medians: a look may come while a file of /proc is open for a moment.
        assert median(each[grows] for each in late) - median(each[grows] for each in warm) < most
    assert max(rss for _, rss, _ in samples) < 100 << 20
    return int(stdout)


def all_delivered_counted(status: Line) -> bool:
    """Whether detection has counted what the probes delivered; true in a quiet moment."""
    counts = status["detection"]
    delivered = {probe: numbers["delivered"] for probe, numbers in status["probes"].items()}
    delivered["open"] += delivered.pop("witness")
    return all(counts[f"{probe}s"] == number for probe, number in delivered.items())


def check_end(running: Endpoint, rounds: int) -> None:
    """After the flood: exact balance, nothing lost, nothing left."""
    running.settle()
    sofar = len(running.statuses) + 1
    status = running.wait_for(
        lambda: next(filter(all_delivered_counted, running.statuses[sofar:]), None), within_secs=30
    )
    counts = status["detection"]
    assert counts["forks"] >= 2 * rounds
    assert counts["exits"] >= 2 * rounds
    assert counts["connects"] >= 2 * rounds
    assert Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text() == ""
    assert running.stop() == 0
    stopped = running.stopped()
    probes = stopped["probes"]
    assert_balanced(probes)
    assert stopped["lost_in_kernel"] == 0
    assert stopped["dropped_by_actors"] == 0
    assert stopped["lines_not_printed"] == 0
    assert stopped["reason"] == "drained"
    assert probes["open"]["seen"] >= 20 * rounds
    assert probes["open"]["suppressed"] > 0
    assert probes["open"]["filtered"] >= 10 * rounds
    assert [log for log in running.logs if log["level"] != "info"] == []
    restarts = {name: actor["restarts"] for name, actor in status["actors"].items()}
    assert not any(restarts.values()), restarts


def soak(build: Callable[[str], Path], folder: Path, *, seconds: float) -> None:
    secret = folder / ".ssh" / "id_rsa"
    secret.parent.mkdir()
    secret.touch()
    with endpoint(
        config=shipped_for_all(), LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS="0.5"
    ) as running:
        rounds = endure(running, build(MIXED), secret, seconds=seconds)
        check_end(running, rounds)


def test_seconds_of_mixed_flood_add_up(build: Callable[[str], Path], tmp_path: Path) -> None:
    soak(build, tmp_path, seconds=SHORT_SECS)


@pytest.mark.soak
def test_minutes_of_mixed_flood_add_up(build: Callable[[str], Path], tmp_path: Path) -> None:
    soak(build, tmp_path, seconds=SOAK_SECS)
