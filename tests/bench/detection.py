"""The measures of detection: matching, the shared state, a worker end to end, back-tests.

With the Sigma corpus where it is (``TESTS_CORPORA``, or beside the checkout), and the built-in
rules.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import trio

from actors.detection.builtin import builtin_rules
from actors.detection.engine import Engine
from actors.detection.plans import Plan
from actors.detection.rules import AnyRule
from actors.detection.ruleset import RuleSet
from actors.detection.settings import FilterSettings
from services.detection.redis_state import RedisState
from services.detection.sigma.loading import load_files
from services.detection.state import (
    JOURNAL_MAX_BATCHES,
    LEASE_SECS,
    Append,
    Unit,
    Write,
    Written,
)
from services.store import open_store
from services.store.settings import StoreSettings
from tests.bench.backend import RUNS, fresh, publish
from tests.bench.commands import TEMPLATES, executions, parents
from tests.bench.measures import Row
from tests.bench.rig import Rig
from tests.bench.stores import fill_history
from tests.services.detection.redis_server import redis
from tests.services.messages import a_batch
from transport.crossing import open_loop
from transport.messages import EVENTS_MAX, CanonicalBatch, encode
from transport.session import Session
from transport.settings import BrokerSettings
from transport.streams import consumers_of

_EXECS = 20_000
_BATCHES = 600
_DEAREST = 5
_ROOT = Path(__file__).resolve().parents[2]


def corpus() -> Path:
    """The folder of Sigma's Linux rules."""
    named = os.environ.get("TESTS_CORPORA")
    return (Path(named) if named else _ROOT.parent / "shared" / "corpora") / "sigma-linux"


def _rules() -> list[AnyRule]:
    return [*builtin_rules(), *load_files([corpus()]).rules]


def _others(rules: Sequence[AnyRule]) -> list[AnyRule]:
    """As many rules again, about other texts."""
    raw = msgspec.to_builtins(list(rules))

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            made = {key: changed(each) for key, each in value.items()}
            if value.get("op") in {"contains", "endswith", "startswith"}:
                made["values"] = [f"{each}x9" for each in value["values"]]
            return made
        return [changed(each) for each in value] if isinstance(value, list | tuple) else value

    copies = [changed(each) | {"id": f"{each['id'][:120]}.copy"} for each in raw]
    return msgspec.convert(copies, list[AnyRule])


def _match_us(rules: RuleSet) -> float:
    events = executions(_EXECS)
    best = []
    for _ in range(RUNS):
        engine = Engine(rules)
        engine.process_batch(parents())
        begin = time.process_time()
        for start in range(0, len(events), EVENTS_MAX):
            engine.process_batch(events[start : start + EVENTS_MAX])
        best.append((time.process_time() - begin) / len(events) * 1e6)
    return min(best)


def _shipped() -> FilterSettings:
    """The lists of the shipped configuration."""
    with (_ROOT / "lavender.toml").open("rb") as file:
        return FilterSettings.model_validate(tomllib.load(file)["filters"])


def matching(_rig: Rig) -> list[Row]:
    """The engine alone: microseconds an execution, and which rules cost most."""
    rules, filters = _rules(), _shipped()
    bare = _match_us(RuleSet(filters, builtin_rules()))
    once = _match_us(RuleSet(filters, rules))
    twice = _match_us(RuleSet(filters, [*rules, *_others(rules)]))
    more = twice / once - 1
    return [
        Row("matching: built-in rules alone", f"{bare:.2f} us/exec", "-", None),
        Row(f"matching: {len(rules)} rules", f"{once:.2f} us/exec", "-", None),
        Row("matching: twice as many cost more by", f"{more:.0%}", "≤ 33 %", more <= 1 / 3),
        *_by_rule(RuleSet(filters, rules)),
    ]


def _by_rule(rules: RuleSet) -> list[Row]:
    """The dearest rules: how often each was tried, and what that cost for each event."""
    spent: defaultdict[str, float] = defaultdict(float)
    tried: Counter[str] = Counter()
    holds = Plan.holds

    def timed(plan: Plan, seen: Any) -> bool:
        begin = time.perf_counter()
        held = holds(plan, seen)
        sequence = -1 if plan.hit is None else plan.hit[0]
        rule = rules.rules[plan.rule] if plan.rule >= 0 else rules.sequences[sequence]
        spent[rule.label] += time.perf_counter() - begin
        tried[rule.label] += 1
        return held

    events = executions(_EXECS)
    with mock.patch.object(Plan, "holds", timed):
        Engine(rules).process_batch([*parents(), *events])
    return [
        Row(
            f"  {label[:48]}",
            f"{seconds / len(events) * 1e6:.2f} us/exec",
            "-",
            None,
            f"tried for {tried[label] / len(events):.0%} of events",
        )
        for label, seconds in sorted(spent.items(), key=lambda item: -item[1])[:_DEAREST]
    ]


def _silent(rules: RuleSet) -> list[str]:
    """The commands of the mix that set off no rule."""
    engine = Engine(rules)
    engine.process_batch(parents())
    return [
        each
        for index, each in enumerate(TEMPLATES, 10)
        if not engine.process_batch(executions(20, templates=[each], first_ns=index * 10**11))
    ]


def _payloads(templates: Sequence[str]) -> list[bytes]:
    first_ones = parents()
    made_up = executions(_BATCHES * EVENTS_MAX - len(first_ones), templates=templates)
    events = [*first_ones, *made_up]
    made = []
    for number in range(_BATCHES):
        first = number * EVENTS_MAX
        batch = a_batch(number, first=first, count=EVENTS_MAX)
        values = {name: getattr(batch, name) for name in batch.__struct_fields__}
        values["events"] = events[first : first + EVENTS_MAX]
        made.append(encode(CanonicalBatch(**values, received_at_unix_ms=1_800_000_000_000)))
    return made


def worker(rig: Rig) -> list[Row]:
    """One worker with its state in Redis, from a full stream: decoded, matched, saved, acked."""
    rules = RuleSet(_shipped(), _rules())
    rows = []
    for what, templates in (("", TEMPLATES), (", no rule set off", _silent(rules))):
        payloads = _payloads(templates)
        speeds = [_worker_speed(rig, payloads) for _ in range(RUNS)]
        median = statistics.median(speeds)
        spread = f"{min(speeds):,.0f}-{max(speeds):,.0f} in {len(speeds)} runs"
        name = f"detection worker: execs matched and acked{what}"
        rows.append(Row(name, f"{median:,.0f} events/s", "≥ 50,000", median >= 50_000, spread))
    return rows


def _worker_speed(rig: Rig, payloads: list[bytes]) -> float:
    rules = rig.folder / "rules"
    if not rules.exists():
        rules.symlink_to(corpus())
    with fresh() as running, redis(running.folder / "redis") as server:
        trio.run(publish, running.url, "telemetry.accepted.acme.web-1", payloads)
        environment = {
            **os.environ,
            "LAVENDER_CONFIG": str(_ROOT / "lavender.toml"),
            "LAVENDER_BROKER__URL": running.url,
            "LAVENDER_DETECTION__STATE": server.url,
            "LAVENDER_RULES__FOLDER": str(rules),
        }
        words = [sys.executable, "-m", "services.detection"]
        with (running.folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(words, cwd=_ROOT, env=environment, stderr=log)
        try:
            return _drain_speed(running.url)
        finally:
            process.terminate()
            process.wait(30)


def _drain_speed(url: str) -> float:
    """Events a second, from the first look at which some are acked to the last."""
    began: tuple[float, int] | None = None
    while True:
        time.sleep(0.2)
        acked = trio.run(_acked, url)
        now = time.perf_counter()
        if began is None:
            if 0 < acked < _BATCHES:
                began = (now, acked)
        elif acked == _BATCHES:
            return (acked - began[1]) * EVENTS_MAX / (now - began[0])


async def _acked(url: str) -> int:
    """Messages of the one busy partition that are acked."""
    session = Session(BrokerSettings(), name="bench-watch", url=url)
    async with open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.wait_connected()
        found = await consumers_of(session, "TELEMETRY_DETECTION")
        nursery.cancel_scope.cancel()
    return max((each["ack_floor"]["stream_seq"] for each in found), default=0)


def backtest(rig: Rig) -> list[Row]:
    """A rule over stored telemetry, by the command, its start included."""
    speeds = []
    for number in range(RUNS):
        url = f"sqlite:{rig.folder}/backtest-{number}.db"
        trio.run(_fill, url)
        words = ["sensitive-file-read", "--since", "1d", "--until", "2099-01-01", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "services.detection", "backtest", *words],
            env={**os.environ, "LAVENDER_STORE__URL": url},
            cwd=_ROOT,
            capture_output=True,
            check=True,
        )
        report = json.loads(done.stdout)
        speeds.append(report["events"] / report["took_secs"])
    median = statistics.median(speeds)
    spread = f"{min(speeds):,.0f}-{max(speeds):,.0f} in {len(speeds)} runs"
    name = "back-test of a rule over SQLite (100 x 1,000 events/s)"
    return [Row(name, f"{median:,.0f} events/s", "≥ 100,000", median >= 100_000, spread)]


async def _fill(url: str) -> None:
    async with open_loop():
        store = open_store(StoreSettings(url=url))
        await store.open()
        try:
            await fill_history(store, moments=400)
        finally:
            await store.close()


def state(rig: Rig) -> list[Row]:
    """One round trip that saves a batch each of many agents, in Redis."""
    rows = []
    for agents, payload_bytes in ((1, 100_000), (64, 10_000)):
        with redis(rig.folder / f"redis-{agents}") as server:
            took = trio.run(_saves, server.url, agents, payload_bytes)
        median, worst = statistics.median(took) * 1000, max(took) * 1000
        rows.append(
            Row(
                f"state: saving {agents} batches of {payload_bytes // 1000} KB at once",
                f"{median:.2f} ms",
                "-",
                None,
                f"worst {worst:.1f} ms of {len(took)}",
            )
        )
    return rows


async def _saves(url: str, agents: int, payload_bytes: int) -> list[float]:
    """Seconds of each of many round trips."""
    shared = RedisState(url, prefix="bench:")
    units = [Unit("acme", f"web-{number}", "boot") for number in range(agents)]
    payload, took = os.urandom(payload_bytes), []
    async with shared.opened():
        await shared.beat("bench", {}, partitions=1)
        await trio.sleep(LEASE_SECS + 0.1)  # a new Redis calls nothing free before
        token = (await shared.take("bench", [0], above=0))[0]
        for version in range(JOURNAL_MAX_BATCHES):
            writes = [Write(unit, 0, token, version, Append((payload,)), b"seen") for unit in units]
            begin = time.perf_counter()
            results = await shared.save(writes)
            took.append(time.perf_counter() - begin)
            if set(results) != {Written.DONE}:
                raise AssertionError(f"Redis says {results[0]}")
    return took
