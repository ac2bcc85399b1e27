"""The tests of the containers: root, Debian, and what `tests/compose/setup` installs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.engine import Engine, engine
from tests.compose.images import make_stand_ins
from tests.compose.stack import Stack, machine_to_ourselves


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.compose)


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    """An engine that has images of the public ones' names."""
    with engine() as running:
        make_stand_ins(running)
        yield running


@pytest.fixture(scope="module")
def stack(docker: Engine) -> Iterator[Stack]:
    """The whole stack, healthy."""
    made = Stack(docker)
    made.build()
    with machine_to_ourselves():
        try:
            made.up()
            yield made
        finally:
            if docker.running:  # the last test stops it
                made.down()
