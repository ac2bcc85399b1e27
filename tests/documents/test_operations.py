"""docs/OPERATIONS.md explains every metric, every log line and every fault that tests provoke."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import pytest

from tests.documents import facts
from tests.documents.extract import ROOT

TEXT = (ROOT / "docs" / "OPERATIONS.md").read_text()
_CODE = r"(?:`` (?P<long>.+?) ``|`(?P<short>[^`]+)`)"
ROWS = re.compile(rf"^\| (?:\*\*)?{_CODE}(?:\*\*)? \|", re.MULTILINE)
FAULTS = {
    "test_counters.py",
    "test_failures.py",
    "test_pins.py",
    "test_publish.py",
    "test_recording.py",
    "test_takeover.py",
}
"""Files of tests/kernel that provoke faults."""
NO_FAULTS = {
    **dict.fromkeys(("test_connect.py", "test_exec.py", "test_exit.py", "test_fork.py"), "events"),
    **dict.fromkeys(("test_open.py", "test_open_repeats.py", "test_open_written.py"), "events"),
    **dict.fromkeys(("test_listen.py", "test_ignored.py"), "events"),
    **dict.fromkeys(("test_rules.py", "test_sigma.py", "test_response.py"), "what detection does"),
    **dict.fromkeys(("test_lineage.py", "test_guarded.py", "test_sshd.py"), "what detection does"),
    **dict.fromkeys(("test_hostile.py", "test_connect_forged.py"), "attacks; docs/SECURITY.md"),
    **dict.fromkeys(("test_burying.py", "test_floods.py"), "attacks; docs/SECURITY.md"),
    **dict.fromkeys(("test_hostfiles.py", "test_long_paths.py"), "attacks; docs/SECURITY.md"),
    "test_confinement.py": "what the agent may do; docs/SECURITY.md",
    "test_unseen.py": "what is not seen; docs/SECURITY.md",
    "test_ordinary_hour.py": "no alert on an ordinary day",
    "test_output.py": "how lines look",
    "test_privileges.py": "what the agent may do; docs/SECURITY.md",
    "test_programs.py": "probes with and without the kernel's cast; decisions/0001",
    "test_witness.py": "attacks; docs/SECURITY.md",
    "test_soak.py": "a long flood, in which nothing may fail",
}
"""The other files of tests/kernel, and what they are about."""
ORDINARY = {
    "tests/faults/test_same_alerts.py::test_the_endpoint_and_workers_say_the_same_of_a_recording",
    "tests/kernel/test_counters.py::test_a_status_record_has_every_counter",
    "tests/kernel/test_failures.py::test_check_prints_a_table_and_attaches_nothing",
    "tests/kernel/test_publish.py::test_heartbeats_say_how_the_agent_stands",
    "tests/kernel/test_publish.py::test_the_stack_takes_what_an_agent_sends_without_more_configuration",
    "tests/kernel/test_publish.py::test_what_a_shell_runs_is_a_row_with_arguments_and_lineage",
    "tests/kernel/test_recording.py::test_a_replay_gives_the_same_lines_byte_for_byte",
    "tests/kernel/test_recording.py::test_a_replay_needs_no_privilege",
    "tests/kernel/test_recording.py::test_replays_do_not_exclude_each_other_or_an_agent",
    "tests/kernel/test_takeover.py::test_the_probes_run_on_every_processor",
}
"""Tests in files of faults that provoke none."""


def rows(heading: str) -> set[str]:
    """What stands in the first column of the tables of a section, braces written out."""
    section = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    (text,) = (each for each in section if each.startswith(f"{heading}\n"))
    found = (match["long"] or match["short"] for match in ROWS.finditer(text))
    return {word for each in found for word in _written_out(each)}


def _written_out(word: str) -> Iterator[str]:
    parts = re.split(r"\{([^}]*)\}", word)
    choices = [part.split(",") if at % 2 else [part] for at, part in enumerate(parts)]
    return ("".join(each) for each in product(*choices))


def test_every_metric_is_explained() -> None:
    explained = rows("Metrics")
    known = facts.metric_names() | facts.status_keys()
    assert sorted(known - explained) == []
    assert sorted(explained - known) == []


def test_no_metric_is_made_where_nobody_looks() -> None:
    assert facts.reading_names() == {
        *("actor", "broker", "detection", "detection_engines", "detection_rules"),
        *("detection_state", "ingest", "sequence", "{name}_messages", "{name}_writer"),
    }


def test_every_log_line_is_explained() -> None:
    explained, logged = rows("Log lines"), facts.log_messages().keys()
    assert sorted(logged - explained) == []
    assert sorted(explained - logged) == []


def fault_tests() -> set[str]:
    folder = ROOT / "tests" / "kernel"
    files = [*(ROOT / "tests" / "faults").glob("test_*.py"), *(folder / each for each in FAULTS)]
    return {test for file in files for test in facts.tests_of(file)}


def provoked() -> list[str]:
    return re.findall(r"`(tests/\S+?::test_\w+)`", TEXT.partition("\n## Runbooks\n")[2])


def test_every_fault_has_a_runbook() -> None:
    assert sorted(fault_tests() - ORDINARY - set(provoked())) == []


def test_every_runbook_names_tests_that_exist() -> None:
    there = fault_tests()
    assert [each for each in provoked() if each not in there] == []
    assert sorted(ORDINARY - there) == []
    assert not ORDINARY & set(provoked())


def test_every_kernel_test_is_about_faults_or_is_not() -> None:
    files = {path.name for path in (ROOT / "tests" / "kernel").glob("test_*.py")}
    assert files == FAULTS | NO_FAULTS.keys()


@pytest.mark.parametrize("message", sorted(facts.log_messages()))
def test_a_log_message_is_one_line_of_words(message: str) -> None:
    assert message.isprintable()
    assert len(message) < 100
