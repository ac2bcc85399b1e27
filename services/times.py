"""Times as people give them on a command line."""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(text: str, *, now_ms: int) -> int:
    """Unix ms of ``15m`` (ago), or of an ISO 8601 time (UTC if it names no zone).

    Raises:
        ValueError: it is neither.
    """
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if ago is not None:
        return now_ms - int(ago[1]) * _UNITS[ago[2]] * 1000
    parsed = datetime.fromisoformat(text)
    aware = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)


def argument(text: str) -> int:
    """`moment` as a type of argparse."""
    try:
        return moment(text, now_ms=time.time_ns() // 1_000_000)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: 90m, 2d, 2026-01-31T10:00"
        ) from error
