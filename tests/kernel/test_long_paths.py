"""Whoever may run programs chooses how long their paths are: the agent stays bounded."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.endpoint import endpoint

RUNS = 6000
"""Distinct programs of 3.8 KB of path; each one's events are 15 KB of text, twice."""
RSS_MAX_BYTES = 120 << 20
NOBODY = 65534

RUNNER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
/* runner FOLDER PROGRAM COUNT: run PROGRAM under that many names in FOLDER. */
int main(int argc, char **argv)
{
    static char path[4096];
    char *arguments[2] = {path, NULL};
    int failed = 0;
    for (int number = 0; number < atoi(argv[3]); number++) {
        snprintf(path, sizeof path, "%s/%05d", argv[1], number);
        if (link(argv[2], path))
            return 2;
        pid_t child = vfork();
        if (!child) {
            execv(path, arguments);
            _exit(1);
        }
        int status;
        waitpid(child, &status, 0);
        failed += status != 0;
        unlink(path);
    }
    return failed != 0;
}
"""
NOTHING = "int main(void) { return 0; }"


@pytest.fixture
def deep(programs: Path) -> Iterator[bytes]:
    top = programs / "deep"
    top.mkdir()
    folder = os.fsencode(top)
    while len(folder) < 3800:
        folder += b"/" + b"\xff" * min(255, 3840 - len(folder))
        os.mkdir(folder)  # noqa: PTH102 - bytes that are no text
        os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(top)


def test_a_flood_of_programs_of_long_paths_takes_a_bounded_part_of_memory(
    build: Callable[[str], Path], deep: bytes, tmp_path: Path
) -> None:
    runner, nothing = build(RUNNER), build(NOTHING)
    program = deep + b"/program"
    shutil.copy(os.fsencode(nothing), program)
    os.chown(program, NOBODY, NOBODY)
    with endpoint("--record", "/dev/null") as agent:
        highest = 0
        with subprocess.Popen(
            [os.fsencode(runner), deep, program, str(RUNS)],
            user=NOBODY,
            group=NOBODY,
            extra_groups=(),
        ) as flood:
            while flood.poll() is None:
                highest = max(highest, agent.rss_bytes())
        assert flood.returncode == 0
        agent.settle()
        assert highest < RSS_MAX_BYTES
        assert agent.stop() == 0
