"""Output for people: colours are ours alone."""

from __future__ import annotations

import re

from tests.kernel.endpoint import endpoint
from tests.kernel.test_hostile import ESCAPES
from tests.kernel.workload import run


def test_pretty_output_cannot_move_the_cursor() -> None:
    with endpoint("--output", "pretty") as running:
        pid, _ = run(b"/bin/sh", b"-c", b": base64", ESCAPES)
        running.wait_for(lambda: any("T1027" in line for line in running.text))
        assert running.stop() == 0
    line = next(line for line in running.malformed if f" {pid} ".encode() in line)
    for text in (line, *(line.encode() for line in running.text)):
        rest = re.sub(rb"\x1b\[[0-9;]*m", b"", text)
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80\xae", rest)
        assert b"31m" not in rest or b"x9b31m" in rest
