"""``python -m services.ledger``: where every event of a time range has gone, agent by agent.

Exit codes: 0 everything balances, 1 something does not, 3 all that came balances but an agent is
silent, 2 configuration, 74 the store.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import actors.entry
from actors import config, stdio
from actors.usage import Parser, program_name
from services.ledger.balance import SILENT_AFTER_MS, accounts
from services.ledger.render import to_json, to_text
from services.program import CONFIG_ERROR, STORE_ERROR, load_settings
from services.store.interface import StoreError
from services.store.reading import read
from services.times import argument, duration

UNBALANCED = 1
SILENT = 3
_FOREVER_MS = 253_402_300_799_999


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog=program_name("services.ledger", command="lavender ledger"),
        description="Where every event has gone.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="use this lavender.toml")
    parser.add_argument(
        "--since", type=argument, default=0, metavar="TIME", help="90m, 2d, ISO time"
    )
    parser.add_argument("--until", type=argument, default=_FOREVER_MS, metavar="TIME", help="same")
    parser.add_argument(
        "--silent-after",
        type=duration,
        default=SILENT_AFTER_MS,
        metavar="TIME",
        help="an agent that sends nothing for longer is silent (1m)",
    )
    parser.add_argument("--tenant", help="only this tenant")
    parser.add_argument("--agent", help="only this agent")
    parser.add_argument("--count-rows", action="store_true", help="count the tables too (slow)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Print the ledger; the exit code."""
    options = _parse(words)
    try:
        facts = read(
            load_settings(options.config).store,
            lambda store: store.ledger(
                since_unix_ms=options.since,
                until_unix_ms=options.until,
                tenant_id=options.tenant,
                agent_id=options.agent,
                count_rows=options.count_rows,
            ),
        )
    except config.ConfigError as error:
        stdio.say(str(error))
        return CONFIG_ERROR
    except StoreError as error:
        stdio.say(str(error))
        return STORE_ERROR
    found = accounts(
        facts,
        at_unix_ms=min(options.until, time.time_ns() // 1_000_000),
        silent_after_ms=options.silent_after,
    )
    stdio.write_all(1, to_json(found) if options.json else to_text(found))
    if any(each.problems for each in found):
        return UNBALANCED
    return SILENT if any(each.silent for each in found) else 0


if __name__ == "__main__":
    actors.entry.run(main)
