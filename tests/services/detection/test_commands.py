"""The tools ``rules`` and ``backtest``: what they print, and their exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors.detection.builtin import NAMES, text_of
from actors.detection.events import AnyEvent
from actors.detection.ruletest import events_of
from services.detection import __main__ as program
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from tests.faults.backend import ROOT
from tests.services.store.cast import HOST, NOW_MS, batch
from transport import crossing

RULE = """id = "mine"
title = "Shadow read"
event = "open"
condition = "read and not by_root"
[selections]
read = { path = "/etc/shadow", access = "read" }
by_root = { "exe|startswith" = "/usr/sbin/" }
[[tests]]
name = "read"
events = [{ type = "open", path = "/etc/shadow" }]
"""
EXCLUSION = '[[exclusions]]\nowner = "o"\nreason = "backup"\nmatch = { exe = "/usr/bin/backup" }\n'
EVENTS = events_of(
    [
        {"type": "exec", "process": "backup", "exe": "/usr/bin/backup"},
        {"type": "open", "process": "backup", "path": "/etc/shadow"},
        {"type": "exec", "process": "cat", "exe": "/usr/bin/cat"},
        {"type": "open", "process": "cat", "path": "/etc/passwd"},
        {"type": "open", "process": "cat", "path": "/etc/shadow"},
    ]
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the program with a configuration of its own; its exit code and what it printed."""
    config = tmp_path / "lavender.toml"
    config.write_text(f'[store]\nurl = "sqlite:{tmp_path}/store.db"\n')

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = program.main(["--config", str(config), *map(str, words)])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RULE)
    return path


def recorded(path: Path, events: list[AnyEvent]) -> Path:
    header = {"lavender_recording": 1, "boot_id": "b", "boot_unix_ns": 10**18, "seeds": events[:1]}
    path.write_bytes(msgspec.json.encode(header) + b"\n" + msgspec.json.encode(events[1:]) + b"\n")
    return path


# rules


def test_check_of_no_rule_fails(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    assert run("rules", "check", folder)[:2] == (1, "0 rules are good, 0 unsupported, 0 wrong\n")


def test_check_names_what_is_not_read_for_its_name(run: Run, rule: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    rule.rename(folder / "mine.toml")
    for name in ("typo.tml", ".hidden", "notes.txt"):
        (folder / name).touch()
    code, out, _ = run("rules", "check", folder)
    ends = "not read: the name of a rule file ends in .json, .toml, .yaml, .yml"
    assert (code, out.splitlines()) == (
        0,
        [
            f"{folder}/notes.txt: {ends}",
            f"{folder}/typo.tml: {ends}",
            "1 rules are good, 0 unsupported, 0 wrong",
        ],
    )


def test_check_says_what_is_wrong_and_where(run: Run, rule: Path, tmp_path: Path) -> None:
    assert run("rules", "check", rule)[:2] == (0, "1 rules are good, 0 unsupported, 0 wrong\n")
    bad = tmp_path / "bad.toml"
    bad.write_text(RULE.replace("mine", "bad").replace("read = {", 'read = { "exe|re" = "(",'))
    code, out, _ = run("rules", "check", rule, bad)
    assert code == 1
    assert out.startswith(f"{bad}:6: exe|re: ")
    code, out, _ = run("rules", "check", rule, bad, "--json")
    found = json.loads(out)
    assert (code, found["rules"]) == (1, 1)
    assert [(each["file"], each["line"]) for each in found["problems"]] == [(str(bad), 6)]


@pytest.mark.parametrize(
    "words", [("check",), ("nonsense",), (), ("show", "nonsense"), ("explain",)]
)
def test_bad_words_are_refused(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run("rules", *words)
    assert (code, out) == (2, "")
    assert "usage:" in err


def test_what_is_not_there_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(RULE)
    for name, why in (("none", "is not there"), ("r.txt", "is no rule file")):
        code, _, err = run("rules", "check", tmp_path / name)
        assert code == 1
        assert why in err


def test_list_has_a_row_for_each_rule_in_force(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "mine.toml").write_text(RULE)
    (tmp_path / "rules" / "bad.toml").write_text("broken")
    code, out, _ = run("rules", "list", "--json")
    rows = json.loads(out)
    assert code == 0
    names = ("id", "title", "source", "status", "reason", "file", "note")
    assert {tuple(row) for row in rows} == {names}
    assert [row["id"] for row in rows if row["status"] == "active"] == [*NAMES, "mine"]
    assert [row["status"] for row in rows][-1] == "unsupported"
    code, out, _ = run("rules", "list")
    assert code == 0
    assert len(out.splitlines()) == len(rows)


def test_test_runs_the_tests_of_rules(run: Run, rule: Path) -> None:
    assert run("rules", "test")[0] == 0  # those in force
    assert run("rules", "test", rule)[0] == 0
    rule.write_text(RULE.replace('name = "read"', 'name = "read"\nmatches = false'))
    code, out, _ = run("rules", "test", rule)
    assert code == 1
    assert "FAIL  mine: read: matched, and must not" in out
    code, out, _ = run("rules", "test", rule, "--json")
    assert code == 1
    assert [(each["test"], each["passed"]) for each in json.loads(out)["tests"]] == [
        ("read", False)
    ]


@pytest.mark.parametrize(
    "snippet",
    [
        '{ type = "fork" }',
        "{ type = [] }",
        '{ type = "open", colour = 1 }',
        '{ type = "open", access = [] }',
        '{ type = "open", process = [], parent = "none" }',
        '{ type = "open", after_secs = nan }',
        '{ type = "open", after_secs = "x" }',
        '{ type = "open", after_secs = -1 }',
        '{ type = "exec", argv = "x" }',
        '{ type = "exec", uid = 1979-05-27 }',
        '{ type = "exec", uid = -1 }',
        '{ type = "connect", dest_port = 70000 }',
    ],
)
def test_a_snippet_that_makes_no_event_is_said(run: Run, rule: Path, snippet: str) -> None:
    rule.write_text(RULE.replace('{ type = "open", path = "/etc/shadow" }', snippet))
    code, _, err = run("rules", "test", rule)
    assert code == 1
    assert "mine: test 'read': " in err


def test_explain_says_which_part_held(run: Run, rule: Path, tmp_path: Path) -> None:
    rule.write_text(RULE + EXCLUSION)
    recording = recorded(tmp_path / "r", EVENTS)
    number = len(EVENTS)
    code, out, _ = run("rules", "explain", rule, "--recording", recording)
    assert code == 0
    assert out.startswith(f"event {number}, open: matches\n")
    assert "✓ path equals '/etc/shadow'   (/etc/shadow)" in out
    code, out, _ = run("rules", "explain", rule, "--recording", recording, "--event", 4, "--json")
    (found,) = json.loads(out)
    assert (found["number"], found["event"], found["held"]) == (4, "open", False)
    condition, excluded = found["parts"][0]["parts"]
    assert (condition["held"], excluded["held"]) == (True, False)
    assert excluded["says"] == "not excluded: backup"
    code, _, err = run("rules", "explain", rule, "--recording", recording, "--event", 1)
    assert code == 1
    assert "no such event" in err


def test_explain_of_the_first_call_is_what_the_engine_would_say(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "first.toml"
    path.write_text(text_of("first-network-caller"))
    calls = [
        {"type": "exec", "exe": "/usr/bin/curl"},
        {"type": "connect", "dest_ip": "127.0.0.1"},
        {"type": "connect", "dest_ip": "203.0.113.7"},
        {"type": "connect", "dest_ip": "203.0.113.7"},
    ]
    recording = recorded(tmp_path / "r", events_of(calls))
    code, out, _ = run("rules", "explain", path, "--recording", recording, "--json")
    assert code == 0
    assert [each["number"] for each in json.loads(out)] == [5]


def test_explain_of_a_sequence_tells_its_steps(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text_of("credential-access-execution"))
    recording = recorded(tmp_path / "r", EVENTS)
    code, out, _ = run("rules", "explain", path, "--recording", recording, "--json")
    assert code == 0
    assert {part["says"] for each in json.loads(out) for part in each["parts"]} == {
        "step 1",
        "step 2",
    }


def test_what_was_compiled_is_read_as_it_was(run: Run, rule: Path, tmp_path: Path) -> None:
    output = tmp_path / "rules" / "all.json"
    output.parent.mkdir()
    code, out, _ = run("rules", "compile", rule, "--output", output)
    assert (code, out) == (0, f"{output}: 1 rules, 0 left out\n")
    assert run("rules", "check", output)[0] == 0
    rows = json.loads(run("rules", "list", "--json")[1])
    assert rows[-1]["id"] == "mine"
    code, _, err = run("rules", "compile", rule, "--output", tmp_path / "none" / "x")
    assert code == 1
    assert "cannot be written" in err


def test_show_prints_the_file_of_a_built_in_rule(run: Run) -> None:
    assert run("rules", "show", "reverse-shell") == (0, text_of("reverse-shell"), "")


# backtest


def test_a_recording_is_back_tested(run: Run, rule: Path, tmp_path: Path) -> None:
    recording = recorded(tmp_path / "r", EVENTS)
    code, out, _ = run("backtest", rule, "--recording", recording, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["events"], found["told"], found["excluded"]) == (len(EVENTS), 2, 0)
    assert [(each["host"], each["day"], each["alerts"]) for each in found["by_host_and_day"]] == [
        ("r", "2001-09-09", 2)
    ]
    assert len(found["examples"]) == 2
    rule.write_text(RULE + EXCLUSION)
    found = json.loads(run("backtest", rule, "--recording", recording, "--json")[1])
    assert (found["told"], found["excluded"]) == (1, 1)
    rule.write_text(RULE + EXCLUSION + 'expires = "2001-01-01"\n')
    found = json.loads(run("backtest", rule, "--recording", recording, "--json")[1])
    assert (found["told"], found["excluded"]) == (2, 0)


def test_the_gate_closes_above_its_number(run: Run, rule: Path, tmp_path: Path) -> None:
    recording = recorded(tmp_path / "r", EVENTS)
    assert run("backtest", rule, "--recording", recording, "--gate", 2)[0] == 0
    code, out, err = run("backtest", rule, "--recording", recording, "--gate", 1)
    assert code == 1
    assert "examples:" in out
    assert "2 alerts on one day; --gate allows 1" in err


def test_rules_in_force_are_back_tested_by_id(run: Run, tmp_path: Path) -> None:
    recording = recorded(tmp_path / "r", EVENTS)
    code, out, _ = run("backtest", "sensitive-file-read", "--recording", recording, "--json")
    assert (code, json.loads(out)["told"]) == (0, 3)  # of a second file, cat is told again
    code, _, err = run("backtest", "nonsense", "--recording", recording)
    assert code == 1
    assert "no rule in force has this id" in err


def test_a_disabled_rule_can_be_back_tested(run: Run, rule: Path, tmp_path: Path) -> None:
    rule.write_text('status = "disabled"\n' + RULE)
    recording = recorded(tmp_path / "r", EVENTS)
    assert json.loads(run("backtest", rule, "--recording", recording, "--json")[1])["told"] == 2


def test_what_lavender_has_no_events_for_is_passed_over(run: Run, rule: Path) -> None:
    other = "title: W\nlogsource:\n  product: windows\ndetection:\n  a:\n    b: c\n  condition: a\n"
    (rule.parent / "windows.yml").write_text(other)
    recording = recorded(rule.parent / "r", EVENTS)
    words = ("backtest", rule, rule.parent / "windows.yml", "--recording", recording, "--json")
    assert json.loads(run(*words)[1])["rules"] == ["mine"]
    assert run("backtest", rule.parent / "windows.yml", "--recording", recording)[0] == 1


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b'{"lavender_recording":9}\n'])
def test_what_is_no_recording_is_said(run: Run, rule: Path, content: bytes) -> None:
    path = rule.parent / "r"
    path.write_bytes(content)
    code, _, err = run("backtest", rule, "--recording", path)
    assert code == 1
    assert str(path) in err


async def store(path: Path) -> None:
    opened = SqliteStore(StoreSettings(url=f"sqlite:{path}"))
    async with crossing.open_loop():
        await opened.open()
        for day, agent in ((0, "a"), (0, "b"), (1, "c")):
            host = msgspec.structs.replace(
                HOST, hostname=agent, boot_unix_ns=HOST.boot_unix_ns + day * 86_400 * 10**9
            )
            await opened.add_telemetry(
                [batch(0, events=EVENTS, first_seq=0, agent_id=agent, host=host)]
            )
        await opened.close()


def test_stored_telemetry_is_back_tested(run: Run, rule: Path, tmp_path: Path) -> None:
    code, _, err = run("backtest", rule)
    assert code == 74
    assert "no such store" in err
    trio.run(store, tmp_path / "store.db")
    words = ("backtest", rule, "--since", "2025-01-01", "--until", "2027-01-01", "--json")
    code, out, _ = run(*words)
    found: dict[str, Any] = json.loads(out)
    assert (code, found["told"], found["busiest_day"]) == (0, 6, 4)
    assert [each["host"] for each in found["by_host_and_day"]] == ["a", "b", "c"]
    assert len({each["day"] for each in found["by_host_and_day"]}) == 2
    assert found["first_unix_ms"] // 86_400_000 <= NOW_MS // 86_400_000
    assert json.loads(run(*words, "--agent", "a")[1])["told"] == 2
    assert run(*words, "--gate", 3)[0] == 1


# As a process


def process(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "LAVENDER" not in name}
    return subprocess.run(
        [sys.executable, "-m", "services.detection", *words],
        cwd=ROOT,
        env=clean,
        check=False,
        text=True,
        timeout=60,
        stderr=subprocess.PIPE,
        **more,
    )


def test_a_process_prints_json_alone_on_its_output(rule: Path) -> None:
    done = process("rules", "list", str(rule), "--json", stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert [row["id"] for row in json.loads(done.stdout)] == ["mine"]


def test_a_process_whose_reader_has_gone_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = process("rules", "list", stdout=writing)
    os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
