"""Files to rules: metadata, lines, ids, and what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from actors.detection.rules import AnyRule, Id, Match, Rule
from services.detection.sigma.documents import SIZE_MAX
from services.detection.sigma.loading import load, load_files
from services.detection.sigma.metadata import slug
from tests.services.detection.sigma.evaluator import (
    document,
    rule_of,
)

ID = "5c1f1ca8-8a4c-4d3e-9f7b-0c8a3a1d2e4f"
PLAIN = "sel: {CommandLine: id}\ncondition: sel"


def test_what_people_read_comes_along() -> None:
    rule = rule_of(
        PLAIN,
        more=f"""
id: {ID.upper()}
name: identity
description: |
    Somebody asks who they are.
author: Ann, Bob
references: [https://example.org/a, https://example.org/b]
level: high
status: test
date: 2024/1/5
license: DRL 1.1
tags: [attack.execution, attack.t1059.004, attack.T1033, attack.t1033, cve.2024-1, attack.g0007]
falsepositives: [Administrators, 5]
fields: [Image]
related: [{{id: {ID}, type: derived}}]
custom: kept out
""",
    )
    assert rule == Rule(
        id=ID,
        label="A test",
        title="A test",
        description="Somebody asks who they are.\nKnown false positives: Administrators; 5",
        author="Ann, Bob",
        references=("https://example.org/a", "https://example.org/b"),
        level="high",
        points=45,
        techniques=("T1059.004", "T1033"),
        source="sigma",
        matches=rule.matches,
    )


def test_what_is_left_out_has_a_default() -> None:
    rule = rule_of(PLAIN)
    assert rule.id == slug("A test")
    assert (rule.level, rule.points, rule.status, rule.author) == ("medium", 25, "active", "")


@pytest.mark.parametrize(
    ("level", "points"),
    [("informational", 0), ("low", 10), ("medium", 25), ("high", 45), ("critical", 75)],
)
def test_points_go_by_level(level: str, points: int) -> None:
    rule = rule_of(PLAIN, more=f"level: {level}")
    assert (rule.level, rule.points) == (level, points)


@pytest.mark.parametrize("status", ["deprecated", "unsupported"])
def test_retired_rules_are_disabled(status: str) -> None:
    assert rule_of(PLAIN, more=f"status: {status}").status == "disabled"


@pytest.mark.parametrize("title", ["A test", "漢字", "A, B & C", "x" * 256, "../../etc/passwd"])
def test_a_rule_without_an_id_has_one_of_its_title(title: str) -> None:
    assert msgspec.convert(slug(title), type=Id) == slug(title)
    assert slug(title) != slug(f"{title}!")
    (rule,) = load(document(PLAIN).replace("A test", f'"{title}"'), "a.yml").rules
    assert rule.id == slug(title)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("id: not-an-id", "UUID"),
        ("id: 5", "not a Sigma document"),
        ("level: awful", "level"),
        ("status: who-knows", "status"),
        ("tags: nothing", "tags"),
        ("date: someday", "date"),
        ("author: [a]", "author"),
        ("falsepositives: none", "falsepositives"),
    ],
)
def test_broken_metadata_is_invalid(more: str, reason: str) -> None:
    (refusal,) = load(document(PLAIN, more=more), "a.yml").refusals
    assert (refusal.kind, refusal.line, refusal.title) == ("invalid", 1, "A test")
    assert reason in refusal.reason
    assert "/" not in refusal.reason


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (document(PLAIN).replace("title: A test", "name: a"), "invalid", "title"),
        ("title: a", "invalid", "a rule has a logsource"),
        ("title: a\nlogsource: {product: linux}", "invalid", "a rule has a detection"),
        ("title: a\nlogsource: []\ndetection: {}", "invalid", "a rule has a logsource"),
        ("title: a\nlogsource: {}\ndetection: {a: b}", "invalid", "log source"),
        ("title: a\nfilter: {rules: any}", "unsupported", "Sigma filters"),
        ("action: global\ntitle: a", "unsupported", "action global"),
        (document(PLAIN, more="taxonomy: ecs"), "unsupported", "taxonomy ecs"),
    ],
)
def test_documents_that_are_no_rules_are_refused(text: str, kind: str, reason: str) -> None:
    (refusal,) = load(text, "a.yml").refusals
    assert refusal.kind == kind
    assert reason in refusal.reason


def test_each_document_is_judged_by_itself() -> None:
    good = document(PLAIN)
    bad = document("sel: {CommandLine: id}\ncondition: other").replace("A test", "Another")
    results = load(f"{good}---\n{bad}---\n{good.replace('A test', 'A third')}", "three.yml")
    assert [(each.rule.title, each.line) for each in results.loaded] == [
        ("A test", 1),
        ("A third", 19),
    ]
    (refusal,) = results.refusals
    assert (refusal.line, refusal.title) == (17, "Another")


def test_rules_can_be_written_and_read_back() -> None:
    rule = rule_of(
        "sel: {CommandLine|contains|all: [a, b]}\nf: {User: root}\ncondition: sel and not f"
    )
    assert msgspec.json.decode(msgspec.json.encode(rule), type=AnyRule) == rule
    assert isinstance(rule.matches[0], Match)


def test_an_id_is_taken_once() -> None:
    text = document(PLAIN, more=f"id: {ID}")
    results = load(f"{text}---\n{text.replace('A test', 'Another')}", "two.yml")
    assert [rule.title for rule in results.rules] == ["A test"]
    (refusal,) = results.refusals
    assert (refusal.kind, refusal.title) == ("invalid", "Another")
    assert refusal.reason == f"the id {ID} is taken by two.yml:1"


def test_a_name_is_taken_once() -> None:
    text = document(PLAIN, more="name: who")
    results = load(f"{text}---\n{text.replace('A test', 'Another')}", "two.yml")
    (refusal,) = results.refusals
    assert refusal.reason == "the name who is taken by two.yml:1"


def test_a_refused_rule_takes_no_id() -> None:
    broken = document("sel: {CommandLine: id}\ncondition: other", more=f"id: {ID}")
    results = load(f"{broken}---\n{document(PLAIN, more=f'id: {ID}')}", "two.yml")
    assert (len(results.rules), len(results.refusals)) == (1, 1)


def test_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.yml").write_text(document(PLAIN))
    (tmp_path / "b.yaml").write_text(document(PLAIN).replace("A test", "Another"))
    (tmp_path / "readme.txt").write_text("no rule")
    results = load_files([tmp_path])
    assert [Path(each.path).name for each in results.loaded] == ["b.yaml", "a.yml"]
    assert results.refusals == ()


def test_files_that_cannot_be_read_are_refused_and_the_others_load(tmp_path: Path) -> None:
    good = tmp_path / "good.yml"
    good.write_text(document(PLAIN))
    large = tmp_path / "large.yml"
    large.write_bytes(b"#" * (SIZE_MAX + 10))
    bytes_only = tmp_path / "bytes.yml"
    bytes_only.write_bytes(b"title: a\nb: \xff")
    pipe = tmp_path / "pipe.yml"
    os.mkfifo(pipe)
    results = load_files([tmp_path / "missing.yml", large, bytes_only, pipe, good])
    assert len(results.loaded) == 1
    assert [(Path(each.path).name, each.line, each.reason) for each in results.refusals] == [
        ("missing.yml", 1, "there is no such file"),
        ("large.yml", 1, "the file has 1,048,586 bytes, more than 1,048,576"),
        ("bytes.yml", 2, "not UTF-8: byte 0xff"),
        ("pipe.yml", 1, "there is no such file"),
    ]
