"""``python -m services.ingest``."""

from __future__ import annotations

from functools import partial

import actors.entry
from services.parts import INGEST
from services.program import main

if __name__ == "__main__":
    actors.entry.run(partial(main, INGEST))
