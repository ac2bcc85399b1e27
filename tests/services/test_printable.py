"""No command prints what a terminal would obey or hide, whatever a process or an agent wrote."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio

from actors import logs, stdio
from actors.detection.events import AnyEvent, LineageProcess
from services.detection import __main__ as detection
from services.ledger import __main__ as ledger
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from tests.faults.backend import ROOT
from tests.services.store.cast import (
    HOST,
    alert,
    batch,
    connect_event,
    exec_event,
    exit_event,
    invalid,
    open_event,
    seed_event,
)
from transport import crossing
from transport.messages import Counters, Evicted, Gap, Rejected

HOSTILE = "\x1b[5;45m\x1b]0;all well\x07\x9b2J\x08\r\x7f\u202e\u2066\u200b\u2028\x85\n  balanced\n"
OURS = re.compile(r"\x1b\[(?:[0-2]|3[0-7]|1;31|1;97;41)m")
"""Colours of the agent's own lines and of its log; the hostile text has another one."""
RULE = f"""id = "mine"
title = {json.dumps(HOSTILE)}
event = "exec"
selections.a = {{ "exe|contains" = "usr" }}
[[exclusions]]
owner = "o"
reason = {json.dumps(HOSTILE)}
match = {{ uid = 7777 }}
[[tests]]
name = {json.dumps(HOSTILE)}
events = [{{ type = "exec", exe = "/nowhere" }}]
"""
EVENTS: list[AnyEvent] = [
    seed_event(comm=HOSTILE[:15], exe=f"/usr/{HOSTILE}", argv=(HOSTILE,)),
    exec_event(comm=HOSTILE[:15], filename=HOSTILE, exe=f"/usr/{HOSTILE}", argv=(HOSTILE,) * 3,
               cwd=HOSTILE, user=HOSTILE, ancestry=HOSTILE),
    exec_event(comm="bash", exe="/usr/bin/bash", argv=("bash", "-c", f"base64 -d {HOSTILE}| sh")),
    open_event(comm=HOSTILE[:15], filename=f"/etc/shadow{HOSTILE}", witness=False),
    connect_event(comm=HOSTILE[:15], user=HOSTILE, dest_port=4444, path="", ancestry=HOSTILE),
    connect_event(comm=HOSTILE[:15], user=HOSTILE, af=1, dest_ip="", dest_port=0, path=HOSTILE),
    exit_event(),
]  # fmt: skip
PROCESS = LineageProcess(pid=400, start_ns=1, ppid=1, parent_start_ns=0, name=HOSTILE)

Run = Callable[..., str]


def unseen(text: str) -> set[str]:
    return {char for char in text if not char.isprintable() and char not in "\n\t"}


def lines(text: str) -> None:
    """No line of the hostile text stands alone, as if it were the program's."""
    assert "  balanced" not in text.splitlines()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose store knows hostile messages, beside hostile rules."""
    path = tmp_path / "lavender.toml"
    path.write_text(f'[store]\nurl = "sqlite:{tmp_path}/store.db"\n')
    host = msgspec.structs.replace(HOST, hostname=HOSTILE)
    counters = Counters(
        evicted=[Evicted("ffeeddccbbaa9988", 0, 3, HOSTILE)], gaps=[Gap(1, 2, HOSTILE, 4)]
    )

    async def fill() -> None:
        store = SqliteStore(StoreSettings(url=f"sqlite:{tmp_path}/store.db"))
        async with crossing.open_loop():
            await store.open()
            for agent, tenant in (("agent-1", "acme"), (HOSTILE, HOSTILE)):
                who: Any = {"agent_id": agent, "tenant_id": tenant, "host": host}
                rejected = [Rejected(len(EVENTS), HOSTILE)]
                await store.add_telemetry(
                    [batch(events=EVENTS, rejected=rejected, counters=counters, **who)]
                )
            await store.add_invalid([invalid(reason=HOSTILE, detail=HOSTILE)])
            await store.add_alerts(
                [
                    alert(
                        hostname=HOSTILE, rule=HOSTILE, detail=HOSTILE, event_comm=HOSTILE,
                        author=HOSTILE, rule_id=HOSTILE, level="high", processes=[PROCESS],
                        lineage=HOSTILE, boot_id=HOSTILE, references=(HOSTILE,),
                    )
                ]
            )  # fmt: skip
            await store.close()

    trio.run(fill)
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], config: Path) -> Run:
    """Run a program; what it printed, in which nothing is unseen."""

    def run(main: Any, *words: object) -> str:
        capfd.readouterr()
        chosen = ["--config", str(config)] if main is detection.main else []
        main([*chosen, *map(str, words)])
        out, err = capfd.readouterr()
        assert unseen(out + err) == set()
        return out + err

    return run


def test_the_ledger(run: Run, config: Path) -> None:
    text = run(ledger.main, "--config", config, "--count-rows")
    assert "rejected (\\x1b[5;45m" in text
    lines(text)
    record = json.loads(run(ledger.main, "--config", config, "--json"))
    assert any(HOSTILE in each["rejected"] for each in record["agents"])


def test_incidents(run: Run) -> None:
    text = run(detection.main, "incidents")
    lines(text)
    listed = json.loads(run(detection.main, "incidents", "--json"))
    (incident,) = listed["incidents"]
    text = run(detection.main, "incidents", incident["incident_id"])
    assert "\\x1b[5;45m" in text
    lines(text)
    run(detection.main, "incidents", incident["incident_id"], "--json")
    run(detection.main, "incidents", HOSTILE)
    run(detection.main, "incidents", "--cursor", HOSTILE)


def recording(path: Path) -> Path:
    header = {"lavender_recording": 1, "boot_id": "b", "boot_unix_ns": 10**18, "hostname": HOSTILE}
    seeds = msgspec.to_builtins(EVENTS[:1])
    lines = msgspec.json.encode({**header, "seeds": seeds}), msgspec.json.encode(EVENTS[1:])
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_rules(run: Run, config: Path) -> None:
    folder = config.parent / "rules"
    folder.mkdir()
    (folder / "mine.toml").write_text(RULE)
    (folder / f"odd{HOSTILE.strip()}.toml".replace("/", "")).write_text("broken")
    (folder / "odd.yml").write_text(f"title: {json.dumps(HOSTILE)}\nlogsource: 5\n")
    (folder / "odd.json").write_text(json.dumps([{HOSTILE: HOSTILE}]))
    for command in ("check", "list", "test"):
        lines(run(detection.main, "rules", command, folder))
        run(detection.main, "rules", command, folder, "--json")
    recorded = recording(config.parent / "recording")
    explained = ("rules", "explain", folder / "mine.toml", "--recording", recorded)
    lines(run(detection.main, *explained))
    run(detection.main, *explained, "--json")
    run(detection.main, "rules", "explain", folder, "--recording", recorded, "--rule", HOSTILE)
    run(detection.main, "rules", "compile", folder, "--output", config.parent / "out.json")


def test_backtest(run: Run, config: Path) -> None:
    (config.parent / "mine.toml").write_text(RULE)
    rule = config.parent / "mine.toml"
    recorded = recording(config.parent / "recording")
    for words in (("--recording", recorded), ("--since", "2020-01-01")):
        text = run(detection.main, "backtest", rule, *words)
        assert "\\x1b[5;45m" in text
        lines(text)
        run(detection.main, "backtest", rule, *words, "--json")
    run(detection.main, "backtest", HOSTILE)


@pytest.mark.parametrize("output", ["json", "pretty"])
def test_the_agent(tmp_path: Path, output: str) -> None:
    recorded = recording(tmp_path / "recording")
    words = ["--config", "lavender.toml", "--output", output, "--replay", str(recorded)]
    done = subprocess.run(
        [sys.executable, "-m", "actors.agent", *words],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    assert "[5;45m" in text
    assert unseen(OURS.sub("", text)) == set()
    lines(text)


@pytest.mark.parametrize("pretty", [False, True])
def test_logs(capfd: pytest.CaptureFixture[str], *, pretty: bool) -> None:
    logs.configure(pretty=pretty)
    log = structlog.get_logger().bind(bound=HOSTILE)
    log.warning(
        HOSTILE, why=HOSTILE, many=[HOSTILE], raw=HOSTILE.encode(), number=5, **{"a b": None}
    )
    log.error("crashed", exc_info=ValueError(HOSTILE))
    text = capfd.readouterr().err
    assert unseen(OURS.sub("", text) if pretty else text) == set()
    assert "[5;45m" in text


def test_messages_to_the_operator(capfd: pytest.CaptureFixture[str]) -> None:
    stdio.say(f"{HOSTILE}\udcff")
    assert unseen(capfd.readouterr().err) == set()
