"""``python -m services.telemetry_writer``."""

from __future__ import annotations

import sys

from services.parts import TELEMETRY_WRITER
from services.program import main

if __name__ == "__main__":
    sys.exit(main(TELEMETRY_WRITER))
