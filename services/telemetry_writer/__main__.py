"""``python -m services.telemetry_writer``."""

from __future__ import annotations

from functools import partial

import actors.entry
from services.parts import TELEMETRY_WRITER
from services.program import main

if __name__ == "__main__":
    actors.entry.run(partial(main, TELEMETRY_WRITER))
