from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """What a test configures of the logs ends with it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
