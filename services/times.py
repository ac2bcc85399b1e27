"""Times as people give them on a command line."""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d{1,9})([smhd])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(text: str, *, now_ms: int) -> int:
    """Unix ms of ``15m`` (ago), or of an ISO 8601 time (UTC if it names no zone).

    Raises:
        ValueError: it is neither.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now_ms - int(ago[1]) * _UNITS[ago[2]] * 1000
    parsed = datetime.fromisoformat(text)
    aware = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)


def iso(unix_ms: int) -> str:
    """``2026-01-31T10:00:00.000Z``."""
    found = _EPOCH + timedelta(milliseconds=unix_ms)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(text: str) -> int:
    """Milliseconds of ``90s`` or ``15m``, as a type of argparse."""
    found = _AGO.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: 90s, 15m")
    return int(found[1]) * _UNITS[found[2]] * 1000


def argument(text: str) -> int:
    """`moment` as a type of argparse."""
    try:
        return moment(text, now_ms=time.time_ns() // 1_000_000)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: 90m, 2d, 2026-01-31T10:00"
        ) from error
