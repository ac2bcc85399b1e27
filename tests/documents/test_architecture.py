"""docs/architecture has a page for every box, and what the pages name is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from actors.agent.console import Stream
from actors.agent.kinds import Resources as AgentResources
from actors.agent.kinds import agent_kinds
from actors.agent.sensor import NoSensor
from actors.agent.settings import Settings as AgentSettings
from services.metrics import Metrics
from services.parts import PARTS, Resources, common_kinds
from services.settings import Settings
from tests.documents.extract import ROOT, documents, name_of
from transport.session import Session

PAGES = sorted((ROOT / "docs" / "architecture").glob("*.md"))
POINTS = ("In", "Out", "Owns", "When it fails", "Counters", "Code", "Not for")
_PATH = re.compile(r"`((?:actors|bpf|services|transport|tests|docker|docs)/[\w./*-]+)`")


def listed(label: str) -> set[str]:
    found = set()
    for page in PAGES:
        for line in re.findall(rf"^{label}: (.*?)$", page.read_text(), re.MULTILINE | re.DOTALL):
            found |= set(re.findall(r"`([^`]+)`", line))
    return found


def agent_kind_names() -> set[str]:
    settings = AgentSettings()
    streams: Any = {"stdout": Stream(1), "stderr": Stream(2)}
    resources = AgentResources(
        settings=settings, sensor=NoSensor(), output="none", recording=None, spared=(), **streams
    )
    return set(agent_kinds(resources))


def service_kind_names() -> set[str]:
    settings = Settings()
    resources = Resources(
        settings=settings,
        session=Session(settings.broker, name="stack"),
        gate=cast("Any", object()),
        metrics=Metrics(),
        listen="",
        streams_ready=trio.Event(),
    )
    parts = (part.kinds(resources).keys() for part in PARTS)
    return set(common_kinds(resources, ())).union(*parts)


def test_every_kind_of_actor_has_its_page() -> None:
    assert listed("Actors") == agent_kind_names() | service_kind_names()


def test_every_program_of_the_backend_has_its_page() -> None:
    programs = {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")}
    assert listed("Program") == {f"python -m services.{name}" for name in programs}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_makes_all_points(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^\*\*(.+?)\.\*\* ", text, re.MULTILINE) == list(POINTS)
    assert f"(architecture/{page.name})" in (ROOT / "docs" / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_files_that_are_named_are_there(path: Path) -> None:
    named = {each.rstrip("/.") for each in _PATH.findall(path.read_text())}
    assert [each for each in sorted(named) if not list(ROOT.glob(each))] == []
