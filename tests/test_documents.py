from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import tomli

from actors.agent.settings import Settings
from services.settings import Settings as ServiceSettings
from tests import reference, streams_reference
from tests.documents.extract import Block, blocks, documents, name_of
from tests.streams_examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STREAMS = DOCS / "EVENT_STREAMS_AND_INTERFACES.md"
_EXAMPLE = re.compile(r"<!-- example: (.*?) -->\n```json\n(.*?)```", re.DOTALL)
SHOWN = dict(_EXAMPLE.findall(STREAMS.read_text()))
RULES = {"docs/RULES.md", "docs/rules-exclusions.md", "docs/TUTORIAL.md"}
"""Their TOML is rules, which tests/test_rules_document.py and the tutorial's test read."""
TABLES = [
    block
    for path in documents()
    for block in blocks(path)
    if block.language == "toml" and block.document not in RULES
]


def test_the_configuration_document_is_what_the_models_say() -> None:
    assert (DOCS / "CONFIGURATION.md").read_text() == reference.render(), "run make docs"


def test_the_document_of_streams_is_what_the_types_say() -> None:
    assert STREAMS.read_text() == streams_reference.render_document(), "run make docs"


def test_every_example_is_shown() -> None:
    assert SHOWN.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_read_by_its_decoder(name: str) -> None:
    example = EXAMPLES[name]
    shown = SHOWN[name].encode()
    raw = shown if example.lines else msgspec.json.format(shown, indent=-1)
    again = example.parse(raw)
    assert [json.loads(line) for line in again.splitlines()] == [
        json.loads(line) for line in raw.splitlines()
    ]


@pytest.mark.parametrize("block", TABLES, ids=lambda each: f"{each.document}:{each.line}")
def test_configuration_that_is_shown_can_be_used(block: Block) -> None:
    tables = tomli.loads(block.text)
    known = {**Settings.model_fields, **ServiceSettings.model_fields}
    assert tables.keys() <= known.keys()
    for model in (Settings, ServiceSettings):
        model.model_validate({name: tables[name] for name in tables.keys() & model.model_fields})


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [*documents(), *(ROOT / "docker").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
            path, _, heading = target.partition("#")
            if path.startswith("http"):
                continue
            found = document.parent / path if path else document
            assert found.exists(), (name_of(document), target)
            if heading:
                assert heading in anchors(found), (name_of(document), target)


def anchors(path: Path) -> set[str]:
    """What can be linked to in a document, as GitHub makes it of the headings."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
