"""``python -m services.alert_writer``."""

from __future__ import annotations

from functools import partial

import actors.entry
from services.parts import ALERT_WRITER
from services.program import main

if __name__ == "__main__":
    actors.entry.run(partial(main, ALERT_WRITER))
