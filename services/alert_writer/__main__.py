"""``python -m services.alert_writer``."""

from __future__ import annotations

import sys

from services.parts import ALERT_WRITER
from services.program import main

if __name__ == "__main__":
    sys.exit(main(ALERT_WRITER))
