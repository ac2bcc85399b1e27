import json
from typing import Any

import pytest

from tests import audit

HOLE: dict[str, Any] = {
    "id": "PYSEC-2099-1",
    "fix_versions": ["2.0"],
    "aliases": [],
    "description": "",
}
SOUND: dict[str, Any] = {"name": "one", "version": "1.0", "vulns": []}
HOLED: dict[str, Any] = {"name": "two", "version": "1.0", "vulns": [HOLE]}
UNKNOWN: dict[str, Any] = {"name": "three", "skip_reason": "not found on PyPI"}


def answers(monkeypatch: pytest.MonkeyPatch, **by_source: list[dict[str, Any]] | None) -> None:
    def ask(source: str, _locks: object) -> str:
        found = by_source[source]
        return "" if found is None else json.dumps({"dependencies": found, "fixes": []})

    monkeypatch.setattr(audit, "ask", ask)


def test_a_known_vulnerability_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, pypi=[SOUND, HOLED, UNKNOWN])
    assert audit.main([]) == 1
    assert "two 1.0: PYSEC-2099-1, mended in 2.0" in capsys.readouterr().out


def test_none_is_fine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers(monkeypatch, pypi=[SOUND, UNKNOWN])
    assert audit.main([]) == 0
    assert "0 known vulnerabilities in 1 packages (pypi)" in capsys.readouterr().out


def test_another_source_is_asked_where_the_first_knows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, pypi=[UNKNOWN], osv=[HOLED])
    assert audit.main([]) == 1


def test_offline_it_says_that_nothing_was_looked_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, pypi=[UNKNOWN], osv=None)
    assert audit.main([]) == 0
    assert "not looked up" in capsys.readouterr().out
