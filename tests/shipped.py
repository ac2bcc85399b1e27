"""The shipped configuration where all may read it: the checkout may be for its owner alone."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def shipped_for_all() -> Path:
    """A copy of ``lavender.toml`` that lives as long as the tests do."""
    folder = Path(tempfile.mkdtemp(prefix="lavender-shipped-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    copy = Path(shutil.copyfile(ROOT / "lavender.toml", folder / "lavender.toml"))
    copy.chmod(0o644)
    return copy
