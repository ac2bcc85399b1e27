"""Whatever a folder of rules holds costs the file that holds it, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sigma.modifiers import modifier_mapping

from actors.detection.builtin import NAMES
from actors.detection.settings import FilterSettings
from actors.rulebook import RuleBook, RulesSettings, assemble, read_folder
from services.detection import rules_command
from services.detection.rules import READERS, rule_files
from services.detection.sigma import loading
from services.settings import Settings

GOOD = """title: Good
logsource: {product: linux, category: process_creation}
detection: {a: {Image: /x}, condition: a}
"""
SIGMA: dict[str, Any] = {
    "title": "Odd",
    "id": "5c1f1ca8-8a4c-4d3e-9f7b-0c8a3a1d2e4f",
    "name": "odd",
    "status": "test",
    "level": "high",
    "date": "2027-01-01",
    "author": "A",
    "description": "d",
    "references": ["https://example.org"],
    "tags": ["attack.t1059"],
    "falsepositives": ["f"],
    "fields": ["Image"],
    "related": [{"id": "5c1f1ca8-8a4c-4d3e-9f7b-0c8a3a1d2e40", "type": "derived"}],
    "logsource": {"product": "linux", "category": "process_creation"},
    "detection": {"a": {"Image|endswith": "/x", "CommandLine|re": "a+"}, "condition": "a"},
}
CORRELATION: dict[str, Any] = {
    "title": "Odd",
    "id": "5c1f1ca8-8a4c-4d3e-9f7b-0c8a3a1d2e4f",
    "correlation": {
        "type": "value_count",
        "rules": ["good"],
        "group-by": ["User"],
        "timespan": "5m",
        "aliases": {"who": {"good": "User"}},
        "condition": {"gte": 2, "field": "Image"},
        "generate": True,
    },
}
TOML: dict[str, Any] = {
    "id": "odd",
    "title": "Odd",
    "event": "exec",
    "level": "low",
    "points": 3,
    "techniques": ["T1059"],
    "condition": "a",
    "selections": {"a": {"exe": "/x", "uid|gt": 5}},
    "exclusions": [{"owner": "o", "reason": "r", "expires": "2027-01-01", "match": {"uid": 0}}],
    "tests": [{"name": "n", "events": [{"exe": "/x"}]}],
}
SEQUENCE: dict[str, Any] = {
    "id": "odd",
    "title": "Odd",
    "sequence": {"steps": ["a"], "scope": "host", "count": 2, "by": ["user"], "within_secs": 9},
    "steps": {"a": {"event": "exec", "selections": {"x": {"exe": "/x"}}}},
}
TUNING: dict[str, Any] = {
    "tunes": ["suspicious-port"],
    "status": "disabled",
    "exclusions": [{"owner": "o", "reason": "r", "match": {"uid": 0}}],
}

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [777, -1, 1 << 31, 1 << 64, 10**30, 0.5, 1e300, "", "a", "%x%", "*", "\\", "("]
    ),
    st.floats(allow_nan=True),
    st.text(max_size=12),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
MODIFIERS = sorted(modifier_mapping)


def places(of: Any) -> Iterator[tuple[Any, ...]]:
    """Every path to a value of a document, the whole one not."""
    pairs = of.items() if isinstance(of, dict) else enumerate(of) if isinstance(of, list) else ()
    for key, value in pairs:
        yield (key,)
        yield from ((key, *rest) for rest in places(value))


def placed(of: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a document with another value at a place."""
    if not path:
        return value
    copy = of.copy()
    copy[path[0]] = placed(of[path[0]], path[1:], value)
    return copy


def toml(of: Any) -> str:
    """A document as TOML, all in line; a null becomes a word of no meaning."""
    if isinstance(of, dict):
        pairs = (f"{json.dumps(key)} = {toml(value)}" for key, value in of.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(of, list):
        return f"[{', '.join(map(toml, of))}]"
    if isinstance(of, float):
        return "nan" if of != of else repr(of).replace("e+", "e")  # noqa: PLR0124 - not a number
    return "2027-01-01" if of is None else json.dumps(of, ensure_ascii=True)


def document(name: str, of: Any) -> bytes:
    """A document as the content of a file of a name."""
    if name.endswith(".toml"):
        lines = (f"{json.dumps(key)} = {toml(value)}" for key, value in of.items())
        return "\n".join(lines).encode()
    if name.endswith(".json"):
        return json.dumps([of]).encode()
    return yaml.safe_dump(of, allow_unicode=False).encode()


def book(folder: Path) -> RuleBook:
    found = read_folder(folder, READERS)
    return assemble(found, RulesSettings(), FilterSettings(), today="2027-01-31")


def active(of: RuleBook) -> list[str]:
    return [each.title for each in (*of.rules.rules, *of.rules.sequences) if each.id not in NAMES]


def check(folder: Path, name: str, content: bytes) -> None:
    """A file beside a good one: it is in force or has a problem of its own; the other is well."""
    (folder / "good.yml").write_text(GOOD)
    (folder / name).write_bytes(content)
    read = book(folder)
    assert "Good" in active(read)
    assert read.digest()
    assert all(each.file == str(folder / name) and each.reason for each in read.unusable)


@pytest.mark.parametrize("value", ["777", "", "[1]", "{a: b}", "[[a]]", "true", "1.5", "~", "[{}]"])
@pytest.mark.parametrize("modifier", MODIFIERS)
def test_every_modifier_takes_every_type_or_refuses_it(
    tmp_path: Path, modifier: str, value: str
) -> None:
    odd = GOOD.replace("Good", "Odd").replace("Image: /x", f'"CommandLine|{modifier}": {value}')
    check(tmp_path, "odd.yml", odd.encode())
    check(tmp_path, "odd.yml", odd.replace("CommandLine|", "|").encode())


@pytest.mark.parametrize("value", ["777", "", "[1]", "{a: b}"])
def test_a_regular_expression_is_text(value: str) -> None:
    odd = GOOD.replace("Image: /x", f"CommandLine|re: {value}")
    (refusal,) = loading.load(odd, "odd.yml").refusals
    assert (refusal.kind, refusal.line) == ("invalid", 3)
    assert refusal.reason.startswith("field CommandLine: ")
    assert "text" in refusal.reason


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("odd.yml", SIGMA),
        ("odd.yaml", CORRELATION),
        ("odd.toml", TOML),
        ("odd.toml", SEQUENCE),
        ("odd.toml", TUNING),
    ],
    ids=["sigma", "correlation", "rule", "sequence", "tuning"],
)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_value_at_any_place_costs_that_file_alone(
    tmp_path: Path, name: str, of: dict[str, Any], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(list(places(of))))
    check(tmp_path, name, document(name, placed(of, path, data.draw(VALUES))))


@given(content=st.binary(max_size=200) | VALUES.map(lambda each: json.dumps(each).encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@pytest.mark.parametrize("name", ["odd.yml", "odd.toml", "odd.json"])
def test_any_bytes_cost_that_file_alone(tmp_path: Path, name: str, content: bytes) -> None:
    check(tmp_path, name, content)


def test_what_no_reader_expects_is_the_file_s_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprised(*_: object) -> None:
        raise ZeroDivisionError("a surprise")

    monkeypatch.setattr(loading, "_fill", surprised)
    (tmp_path / "odd.yml").write_text(GOOD)
    (tmp_path / "well.json").write_text("[]")
    (why,) = book(tmp_path).unusable
    assert (why.file, why.reason) == (
        str(tmp_path / "odd.yml"),
        "cannot be used: ZeroDivisionError: a surprise",
    )


def test_names_that_are_no_text_and_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "good.yml").write_text(GOOD)
    (tmp_path / os.fsdecode(b"\xff\x1b[2J.yml")).write_text("broken: [")
    (tmp_path / "folder.yml").mkdir()
    (tmp_path / "folder.yml" / "more.yml").write_text(GOOD.replace("Good", "More"))
    (tmp_path / "loop.yml").symlink_to("loop.yml")
    os.mkfifo(tmp_path / "pipe.yml")
    read = book(tmp_path)
    assert sorted(active(read)) == ["Good", "More"]
    assert len(read.unusable) == 4
    assert read.digest()


def test_the_commands_and_a_running_worker_go_on(tmp_path: Path) -> None:
    of = Settings.model_validate({"rules": {"folder": str(tmp_path)}})
    (tmp_path / "good.yml").write_text(GOOD)
    files = rule_files(of.rules, of.filters)
    assert active(files.book) == ["Good"]
    (tmp_path / "odd.yml").write_text(GOOD.replace("Image: /x", "CommandLine|re: 777"))
    assert files.changed() is None
    (tmp_path / "new.yml").write_text(GOOD.replace("Good", "New"))
    changed = files.changed()
    assert changed is not None
    assert sorted(active(changed)) == ["Good", "New"]
    assert rules_command.main(["check", str(tmp_path)], of) == rules_command.FAILED
    assert rules_command.main(["check", str(tmp_path / "new.yml")], of) == 0
