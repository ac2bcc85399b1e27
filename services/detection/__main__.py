"""``python -m services.detection``."""

from __future__ import annotations

import sys

from services.parts import DETECTION
from services.program import main

if __name__ == "__main__":
    sys.exit(main(DETECTION))
