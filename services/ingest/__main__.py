"""``python -m services.ingest``."""

from __future__ import annotations

import sys

from services.parts import INGEST
from services.program import main

if __name__ == "__main__":
    sys.exit(main(INGEST))
