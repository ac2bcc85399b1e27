"""Programs of ``ignored_comms``: unwatched for as long as they run, and no longer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.endpoint import Endpoint, endpoint

READ = "T1003 [Sensitive file read]"


@pytest.fixture(scope="module")
def ignoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An agent that ignores perl; dash says when all was judged."""
    record = tmp_path_factory.mktemp("ignoring") / "events"
    with endpoint(record=record, LAVENDER_FILTERS__IGNORED_COMMS=json.dumps(["perl"])) as running:
        yield running
        assert running.stop() == 0


def played(code: str, *words: str | Path) -> int:
    """Have perl run something; its pid."""
    process = subprocess.Popen(["/usr/bin/perl", "-e", code, *words], stdout=subprocess.DEVNULL)
    assert process.wait(30) == 0
    return process.pid


WAIT = "select undef, undef, undef, 0.4;"


@pytest.mark.parametrize("wait", [WAIT, ""], ids=["later", "at once"])
def test_what_an_ignored_program_executes_is_watched(
    ignoring: Endpoint, secret: Path, wait: str
) -> None:
    pid = played(f'{wait} exec "cat", $ARGV[0];', secret)
    assert ignoring.event(type="open", pid=pid, filename=str(secret))
    assert READ in ignoring.rules_of(pid)


def test_the_ignored_program_itself_is_not_watched(ignoring: Endpoint, secret: Path) -> None:
    pid = played(f'{WAIT} open my $file, "<", $ARGV[0];', secret)
    ignoring.settle()
    assert ignoring.seen(type="exec", pid=pid)
    assert not ignoring.seen(type="open", pid=pid, filename=str(secret))
