"""``python -m tests.faults.detection_worker``: the real worker with the engine of its tests."""

from __future__ import annotations

import sys

from services.parts import detection_part
from services.program import main
from tests.services.detection.cast import make_chain

if __name__ == "__main__":
    sys.exit(main(detection_part(make_chain)))
