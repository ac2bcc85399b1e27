"""``python -m tests.bench``: run the measures and print the table.

Not a test: it asserts nothing. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import structlog

from tests.bench import backend, detection, measures, spool, stores
from tests.bench.measures import Row
from tests.bench.rig import Rig

MEASURES: dict[str, Callable[[Rig], list[Row]]] = {
    "opens-all": partial(measures.opens, every=True),
    "opens-filtered": partial(measures.opens, every=False),
    "execs": measures.execs,
    "mixed": measures.mixed,
    "kill-idle": partial(measures.kills, flooded=False),
    "kill-flood": partial(measures.kills, flooded=True),
    "kill-exec-idle": partial(measures.kills, flooded=False, decided_by="exec"),
    "kill-exec-flood": partial(measures.kills, flooded=True, decided_by="exec"),
    "start": measures.start,
    "memory": measures.memory,
    "bpftrace": measures.compare_bpftrace,
    "spool": spool.spool_cost,
    "store-sqlite": stores.sqlite_rows,
    "store-postgres": stores.postgres_rows,
    "sizes": stores.sizes,
    "history-sqlite": stores.sqlite_history,
    "history-postgres": stores.postgres_history,
    "ingest": backend.ingest,
    "writer-sqlite": backend.writer_sqlite,
    "writer-postgres": backend.writer_postgres,
    "publishing": backend.publishing,
    "latency": backend.latency,
    "matching": detection.matching,
    "state": detection.state,
    "detection": detection.worker,
    "backtest": detection.backtest,
    "endurance": backend.endurance,
}
_MARKS = {True: "holds", False: "MISSED", None: ""}


def main() -> int:
    """Run; 0 whatever the figures are, for a benchmark judges nobody."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("only", nargs="*", choices=[[], *MEASURES], help="measures to run")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    rig = Rig()
    rows: list[Row] = []
    try:
        for name in options.only or MEASURES:
            sys.stderr.write(f"measuring {name}\n")
            found = MEASURES[name](rig)
            rows += found
            if not options.json:
                _print(found)
    finally:
        rig.close()
    if options.json:
        machine = {"kernel": platform.release(), "cpus": os.cpu_count()}
        sys.stdout.write(json.dumps({"machine": machine, "rows": [asdict(r) for r in rows]}) + "\n")
    return 0


def _print(rows: list[Row]) -> None:
    for row in rows:
        sys.stdout.write(
            f"{row.measure:<52} {row.figure:>18}  {row.bar:>7}  {_MARKS[row.holds]:<7}{row.note}\n"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
