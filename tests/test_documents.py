from __future__ import annotations

from pathlib import Path

from tests.reference import render

ROOT = Path(__file__).resolve().parents[1]


def test_the_configuration_document_is_what_the_models_say() -> None:
    assert (ROOT / "docs" / "CONFIGURATION.md").read_text() == render(), "run make docs"


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in document.read_text().split("](")[1:]:
            path = target.split(")")[0]
            assert path.startswith("http") or (document.parent / path).exists(), (document, path)
