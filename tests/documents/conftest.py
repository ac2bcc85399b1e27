"""Scenes need root and namespaces; where CI requires the kernel, lacking them is a failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.documents.stage import usable
from tests.kernel.conftest import REQUIRE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what plays a scene where that cannot be."""
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    scenes = [item for item in mine if item.get_closest_marker("kernel")]
    if scenes and os.environ.get(REQUIRE) != "1" and not usable():
        for item in scenes:
            item.add_marker(pytest.mark.skip(reason="needs root, namespaces and overlayfs"))
