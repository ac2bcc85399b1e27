"""Rule files under watch: what a change does, and what a bad one does not."""

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog.testing
import trio.testing

from actors.agent import privileges
from actors.detection.builtin import NAMES
from actors.detection.settings import FilterSettings
from actors.rulebook import READERS, Found, RuleBook, RulesSettings, Unusable
from actors.rulefiles import NewRules, RuleFiles, RuleWatcher
from actors.runtime.testing import run_actor
from tests.test_rulebook import DAY, EXCLUDED, RULE, active, write


def watched(folder: Path, **more: Any) -> RuleFiles:
    files = RuleFiles(
        RulesSettings(), FilterSettings(), folder=folder, **{"date": lambda: DAY, **more}
    )
    assert files.book
    return files


def own(book: RuleBook | None) -> list[str]:
    assert book is not None
    return [each for each in active(book) if each not in NAMES]


def test_changes_are_taken_up_once(tmp_path: Path) -> None:
    files = watched(tmp_path)
    assert files.changed() is None
    write(tmp_path, "r.toml", RULE.format("r", "low"))
    assert own(files.changed()) == ["r"]
    assert files.changed() is None
    (tmp_path / "r.toml").unlink()
    assert own(files.changed()) == []


def test_a_bad_change_costs_its_own_file_and_leaves_what_that_had_in_force(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", RULE.format("a", "low"))
    files = watched(tmp_path)
    write(tmp_path, "b.toml", RULE.format("b", "low"))
    write(tmp_path, "a.toml", "broken")
    assert own(files.changed()) == ["a", "b"]
    assert files.changed() is None
    assert files.refused == 1
    assert [each.file for each in files.book.unusable] == [str(tmp_path / "a.toml")]
    write(tmp_path, "c.toml", RULE.format("c", "low"))
    assert own(files.changed()) == ["a", "b", "c"]
    assert files.refused == 1
    write(tmp_path, "a.toml", RULE.format("d", "low"))
    assert own(files.changed()) == ["b", "c", "d"]
    assert files.book.unusable == []


def mount(folder: Path, version: str, **texts: str) -> None:
    """As Kubernetes mounts a ConfigMap: links into a hidden folder, exchanged as a whole."""
    for name, text in texts.items():
        write(folder, f"..{version}/{name}.toml", text)
        link = folder / f"{name}.toml"
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}.toml")
    (folder / "..new").symlink_to(f"..{version}")
    (folder / "..new").rename(folder / "..data")


def test_a_mounted_folder_that_is_exchanged_as_a_whole_is_taken_up(tmp_path: Path) -> None:
    mount(tmp_path, "v1", a=RULE.format("a", "low"), b=RULE.format("b", "low"))
    files = watched(tmp_path)
    assert (own(files.book), files.book.unusable) == (["a", "b"], [])
    mount(tmp_path, "v2", a=RULE.format("a", "high"), b=RULE.format("c", "low"))
    assert own(files.changed()) == ["a", "c"]
    assert files.book.unusable == []
    shutil.rmtree(tmp_path / "..v1")
    assert files.changed() is None


def test_what_is_compiled_from_a_source_beside_it_gives_way_to_the_source(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", RULE.format("a", "low"))
    before = RuleFiles(RulesSettings(), FilterSettings(), folder=tmp_path).book
    mine = [each for each in before.rules.rules if each.id == "a"]
    (tmp_path / "compiled.json").write_bytes(msgspec.json.encode(mine))
    files = watched(tmp_path)
    assert files.book.unusable == []
    write(tmp_path, "a.toml", RULE.format("a", "high"))
    changed = files.changed()
    assert changed is not None
    assert changed.unusable == []
    assert [each.level for each in changed.rules.rules if each.id == "a"] == ["high"]
    again = RuleFiles(RulesSettings(), FilterSettings(), folder=tmp_path).book
    assert [each.level for each in again.rules.rules if each.id == "a"] == ["high"]
    (tmp_path / "a.toml").unlink()
    assert own(files.changed()) == ["a"]


def test_a_bad_change_alone_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", RULE.format("a", "low"))
    files = watched(tmp_path)
    rules = files.book.rules
    write(tmp_path, "a.toml", "broken")
    assert files.changed() is None
    assert files.refused == 1
    assert files.book.rules is rules
    (tmp_path / "a.toml").unlink()
    assert own(files.changed()) == []


def test_what_was_quarantined_at_the_start_stops_no_change(tmp_path: Path) -> None:
    write(tmp_path, "bad.toml", "broken")
    files = watched(tmp_path)
    write(tmp_path, "a.toml", RULE.format("a", "low"))
    assert own(files.changed()) == ["a"]
    assert files.counts() == {"active": len(NAMES) + 1, "unsupported": 1}


def test_what_lavender_has_no_events_for_stops_no_change(tmp_path: Path) -> None:
    def read(paths: Any) -> Found:
        return Found(
            unusable=[Unusable(str(path), 1, "no such events", unsupported=True) for path in paths]
        )

    files = watched(tmp_path, readers={**READERS, ".yml": read})
    write(tmp_path, "windows.yml", "")
    write(tmp_path, "a.toml", RULE.format("a", "low"))
    assert own(files.changed()) == ["a"]


def test_a_folder_that_vanishes_leaves_its_rules_in_force(tmp_path: Path) -> None:
    write(tmp_path / "rules", "a.toml", RULE.format("a", "low"))
    files = watched(tmp_path / "rules")
    shutil.rmtree(tmp_path / "rules")
    assert files.changed() is None
    assert files.changed() is None
    assert files.refused == 1
    assert own(files.book) == ["a"]
    write(tmp_path / "rules", "b.toml", RULE.format("b", "low"))
    assert own(files.changed()) == ["b"]


def test_a_folder_may_come_later(tmp_path: Path) -> None:
    files = watched(tmp_path / "rules")
    write(tmp_path / "rules", "a.toml", RULE.format("a", "low"))
    assert own(files.changed()) == ["a"]


def test_an_exclusion_expires_although_no_file_changes(tmp_path: Path) -> None:
    write(tmp_path, "r.toml", EXCLUDED.replace('"{}"', f'"{DAY}"'))
    days = [DAY]
    files = watched(tmp_path, date=lambda: days[-1])
    before = files.book
    days.append("2027-02-01")
    book = files.changed()
    assert book is not None
    assert book.digest() != before.digest()


async def test_a_watcher_tells_new_rules(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    files = watched(tmp_path)
    async with run_actor(RuleWatcher(files=files, live=True), within_secs=1e6) as stage:
        write(tmp_path, "a.toml", RULE.format("a", "low"))
        while not stage.told:  # noqa: ASYNC110 - the clock runs ahead of the thread that looks
            await trio.sleep(1)
    (told,) = stage.told
    assert isinstance(told, NewRules)
    assert told.rules is files.book.rules
    assert autojump_clock.current_time() > RulesSettings().reload_secs


async def test_in_a_replay_it_ends_at_once(tmp_path: Path) -> None:
    async with run_actor(RuleWatcher(files=watched(tmp_path), live=False)) as stage:
        with trio.fail_after(5):
            await stage.ended.wait()
    assert stage.told == []


def test_sigma_files_that_an_agent_does_not_read_are_not_passed_over_in_silence(
    tmp_path: Path,
) -> None:
    write(tmp_path, "sigma/a.yml", "title: x")
    with structlog.testing.capture_logs() as said:
        watched(tmp_path)
    assert [(each["log_level"], each["files"]) for each in said] == [("warning", 1)]
    with structlog.testing.capture_logs() as said:
        watched(
            tmp_path, readers={**READERS, ".yml": lambda _: Found(), ".yaml": lambda _: Found()}
        )
    assert said == []


def test_a_file_that_disables_a_built_in_rule_is_named_in_a_warning(tmp_path: Path) -> None:
    write(tmp_path, "own.toml", RULE.format("own", "low"))
    with structlog.testing.capture_logs() as logs:
        files = watched(tmp_path)
    assert not [line for line in logs if line["log_level"] == "warning"]
    off = write(tmp_path, "off.toml", RULE.format(NAMES[0], "low") + 'status = "disabled"\n')
    with structlog.testing.capture_logs() as logs:
        assert files.changed()
        assert files.changed() is None
    expected = {
        "event": "a file takes the place of a built-in rule",
        "log_level": "warning",
        "rule": NAMES[0],
        "file": str(off),
        "status": "disabled",
    }
    assert logs[1:] == [expected]
    with structlog.testing.capture_logs() as logs:
        watched(tmp_path)
    assert logs == [expected]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_the_agent_s_user_may_not_read_is_named(tmp_path: Path, what: str) -> None:
    for each in (tmp_path, *tmp_path.parents):
        if each.is_relative_to("/tmp/"):
            each.chmod(each.stat().st_mode | 0o055)
    folder = tmp_path / "rules"
    path = write(folder, "own.toml", RULE.format("own", "low"))
    folder.chmod(0o755)
    path.chmod(0o644)
    files = watched(folder)
    assert privileges.as_unprivileged(files.unreadable) == []
    (path if what == "file" else folder).chmod(0o600)
    named = path if what == "file" else folder

    def warned() -> list[str]:
        with structlog.testing.capture_logs() as logs:
            files.warn_of_unreadable()
            assert files.changed() is None
        return [text for line in logs for text in line.get("files", [line["event"]])]

    (found,) = privileges.as_unprivileged(warned)
    assert str(named) in found, "and that is said once"
