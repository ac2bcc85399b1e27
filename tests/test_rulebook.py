"""The rules in force: which of built-in and users' rules they are, and why others are not."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors import rule_folders, rulebook
from actors.detection.builtin import NAMES, builtin_rules, text_of
from actors.detection.conditions import Not, Test
from actors.detection.rulefile import RuleFileError
from actors.detection.rules import Match, Rule
from actors.detection.settings import FilterSettings
from actors.rulebook import BUILT_IN, RuleBook, RulesSettings

RULE = (
    'id = "{}"\ntitle = "A rule"\nevent = "exec"\nlevel = "{}"\nselections.a = {{ exe = "/x" }}\n'
)
DAY = "2027-01-31"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(folder: Path | None, *, today: str = DAY, **chosen: Any) -> RuleBook:
    found = rulebook.read_folder(folder, rulebook.READERS)
    return rulebook.assemble(found, RulesSettings(**chosen), FilterSettings(), today=today)


def active(book: RuleBook) -> list[str]:
    return [each.id for each in (*book.rules.rules, *book.rules.sequences)]


def status(book: RuleBook) -> dict[str, tuple[str, str]]:
    return {row.id: (row.status, row.reason) for row in book.rows if row.source != BUILT_IN}


def test_without_a_folder_the_built_in_rules_are_in_force(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "none", tmp_path):
        book = load(folder)
        assert active(book) == list(NAMES)
        assert {(row.source, row.status, row.file) for row in book.rows} == {
            (BUILT_IN, "active", BUILT_IN)
        }


def test_a_row_has_what_is_promised(tmp_path: Path) -> None:
    path = write(tmp_path, "r.toml", RULE.format("mine", "low"))
    assert asdict(load(tmp_path).rows[-1]) == {
        "id": "mine",
        "title": "A rule",
        "source": "lavender",
        "status": "active",
        "reason": "",
        "file": str(path),
        "note": "",
    }


def test_a_user_s_rule_takes_the_place_of_a_built_in_one(tmp_path: Path) -> None:
    write(tmp_path, "r.toml", RULE.format("suspicious-port", "low"))
    book = load(tmp_path)
    assert sorted(active(book)) == sorted(NAMES)
    (rule,) = (each for each in book.rules.rules if each.id == "suspicious-port")
    assert rule.title == "A rule"


def test_a_broken_one_does_not(tmp_path: Path) -> None:
    text = RULE.format("suspicious-port", "low").replace('exe = "/x"', "error = 0")
    write(tmp_path, "r.toml", text)
    book = load(tmp_path)
    assert sorted(active(book)) == sorted(NAMES)
    (why,) = book.unusable
    assert "matches every exec event" in why.reason


def test_rules_can_be_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", RULE.format("a", "low"))
    write(tmp_path, "b.toml", RULE.format("b", "critical"))
    write(tmp_path, "c.toml", RULE.format("c", "critical") + 'status = "disabled"\n')
    write(tmp_path, "d.toml", RULE.format("d", "critical"))
    book = load(tmp_path, disabled=("d", "reverse-shell"), min_level="high")
    assert status(book) == {
        "a": ("disabled", "its level low is below [rules] min_level"),
        "b": ("active", ""),
        "c": ("disabled", "its file says so"),
        "d": ("disabled", "[rules] disabled"),
    }
    assert "reverse-shell" not in active(book)
    assert all(each.level in {"high", "critical"} for each in book.rules.rules)


EXCLUDED = (
    RULE.format("a", "low")
    + '[[exclusions]]\nowner = "o"\nreason = "r"\nmatch = {{ uid = 0 }}\nexpires = "{}"\n'
).replace("{{ uid = 0 }}", "{ uid = 0 }")


@pytest.mark.parametrize(
    ("expires", "holds"),
    [("", True), (DAY, True), ("2027-02-01", True), ("2027-01-30", False), ("2026-12-31", False)],
)
def test_an_exclusion_holds_to_the_end_of_its_last_day(
    tmp_path: Path, expires: str, *, holds: bool
) -> None:
    write(tmp_path, "r.toml", EXCLUDED.replace('"{}"', f'"{expires}"'))
    (rule,) = (each for each in load(tmp_path).rules.rules if each.id == "a")
    assert bool(rule.exclusions) is holds


def test_the_first_of_two_with_one_id_is_in_force(tmp_path: Path) -> None:
    first = write(tmp_path, "a.toml", RULE.format("r", "low"))
    second = write(tmp_path, "b.toml", RULE.format("r", "high"))
    book = load(tmp_path)
    (why,) = book.unusable
    assert (why.file, why.id) == (str(second), "r")
    assert str(first) in why.reason
    assert [row.status for row in book.rows if row.id == "r"] == ["active", "unsupported"]


def test_what_is_wrong_is_quarantined_and_the_others_work(tmp_path: Path) -> None:
    write(tmp_path, "good.toml", RULE.format("good", "low"))
    bad = write(tmp_path, "deep/bad.toml", RULE.format("bad", "low") + "colour = 1\n")
    write(tmp_path, "bad.json", "[{")
    (tmp_path / "gone.toml").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    write(tmp_path, ".#good.toml", "an editor's")
    write(tmp_path, "README.md", "not a rule")
    book = load(tmp_path)
    assert [each.id for each in book.rules.rules if each.id not in NAMES] == ["good"]
    said = {Path(each.file).name: str(each) for each in book.unusable}
    assert sorted(said) == ["bad.json", "bad.toml", "folder.toml", "gone.toml", "pipe.toml"]
    assert said["bad.toml"].startswith(f"{bad}:6: ")
    assert "No such file" in said["gone.toml"]
    assert "is no file" in said["pipe.toml"]


def test_symlinks_are_followed_to_files(tmp_path: Path) -> None:
    real = write(tmp_path, "real/r.txt", RULE.format("r", "low"))
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "r.toml").symlink_to(real)
    (tmp_path / "rules" / "loop").symlink_to(tmp_path / "rules")
    (tmp_path / "link").symlink_to(tmp_path / "rules")
    assert "r" in active(load(tmp_path / "link"))


def test_linked_folders_are_looked_into_once(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/sigma/r.toml", RULE.format("r", "low"))
    write(tmp_path, "rules/mine.toml", RULE.format("mine", "low"))
    (tmp_path / "rules" / "theirs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "rules")
    book = load(tmp_path / "rules")
    assert {"mine", "r"} <= set(active(book))
    assert not book.unusable


def test_a_file_that_can_be_reached_twice_is_one(tmp_path: Path) -> None:
    path = write(tmp_path, "rules/r.toml", RULE.format("r", "low"))
    other = write(tmp_path, "other.toml", RULE.format("other", "low"))
    (tmp_path / "rules" / "again.toml").symlink_to(path)
    for name in ("one.toml", "two.toml"):
        (tmp_path / "rules" / name).symlink_to(other)
    book = load(tmp_path / "rules")
    assert book.unusable == []
    assert {"r", "other"} <= set(active(book))


def test_hidden_files_and_folders_are_not_looked_into(tmp_path: Path) -> None:
    for name in (".git/r.toml", ".r.toml", "sub/.idea/r.toml"):
        write(tmp_path, name, RULE.format("r", "low"))
    assert active(load(tmp_path)) == list(NAMES)


def test_a_file_that_vanishes_after_it_was_listed_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "r.toml", RULE.format("r", "low"))
    listed = rule_folders.find_files([tmp_path], [".toml"])
    path.unlink()
    (why,) = rulebook.read_files(listed, rulebook.READERS).unusable
    assert "No such file" in why.reason


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RuleFileError, match="cannot be read: Permission denied"):
        load(tmp_path)


def test_too_many_files_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_folders, "FILES_MAX", 2)
    for number in range(3):
        write(tmp_path, f"{number}.toml", RULE.format(f"r{number}", "low"))
    with pytest.raises(RuleFileError, match="more than 2"):
        load(tmp_path)


def test_compiled_rules_are_what_was_compiled(tmp_path: Path) -> None:
    rules = [msgspec.structs.replace(each, tests=()) for each in builtin_rules()]
    (tmp_path / "all.json").write_bytes(msgspec.json.encode(rules))
    book = load(tmp_path)
    assert [*book.rules.rules, *book.rules.sequences] == sorted(
        (each for each in rules if isinstance(each, Rule)), key=lambda each: each.id
    ) + sorted((each for each in rules if not isinstance(each, Rule)), key=lambda each: each.id)


def deep(depth: int) -> Rule:
    when: Any = Test("exe", "equals", ("/x",))
    for _ in range(depth):
        when = Not(when)
    return Rule(id="deep", label="deep", matches=(Match("exec", when),))


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b"\xff",
        b'[{"type":"rule","id":"a","label":"a","matches":[]}]',
        msgspec.json.encode([deep(100)]),
        b"[" * 100_000,
        msgspec.json.encode([deep(1)]).replace(b'"id":"deep"', b'"id":"a b"'),
        msgspec.json.encode([deep(1)]).replace(b"/x", b"\\ud800"),
        b'[{"type":"sequence","id":"a","label":"a","steps":[],"window_secs":-1}]',
        b'[{"type":"sequence","id":"a","label":"a","steps":[]}]',
    ],
    ids=len,
)
def test_compiled_rules_that_cannot_be_used_are_quarantined(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(raw)
    book = load(tmp_path)
    assert active(book) == list(NAMES)
    assert len(book.unusable) == 1


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    def look() -> object:
        return rule_folders.fingerprint(tmp_path / "rules", [".toml"])

    seen = [look()]
    path = write(tmp_path, "rules/r.toml", RULE.format("r", "low"))
    seen.append(look())
    other = write(tmp_path, "other.toml", RULE.format("s", "low"))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)  # as large and as old as the one before
    seen.append(look())
    assert look() == seen[-1]
    write(tmp_path, "rules/r.md", "")
    assert look() == seen[-1]
    shutil.rmtree(tmp_path / "rules")
    assert look() == seen[0]
    assert len(set(seen)) == 3


def test_the_digest_is_that_of_the_rules_in_force(tmp_path: Path) -> None:
    write(tmp_path, "r.toml", EXCLUDED.replace('"{}"', f'"{DAY}"'))
    assert load(tmp_path).digest() == load(tmp_path).digest()
    assert load(tmp_path).digest() != load(tmp_path, today="2027-02-01").digest()
    assert load(tmp_path, disabled=("a",)).digest() == load(None).digest()


def test_a_built_in_rule_can_be_copied_and_changed(tmp_path: Path) -> None:
    write(tmp_path, "p.toml", text_of("suspicious-port").replace("points = 45", "points = 1"))
    (rule,) = (each for each in load(tmp_path).rules.rules if each.id == "suspicious-port")
    assert rule.points == 1


def test_no_two_rules_have_one_label_of_which_alert_ids_are_made(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, f"{name}.toml", RULE.format(name, "low"))
    write(tmp_path, "c.toml", text_of("suspicious-port").replace('"suspicious-port"', '"c"', 1))
    labels = {each.id: each.label for each in load(tmp_path).rules.rules}
    assert (labels["a"], labels["b"]) == ("A rule", "A rule (b)")
    assert labels["c"] == f"{labels['suspicious-port']} (c)"
