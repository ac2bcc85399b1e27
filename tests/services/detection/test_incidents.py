from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.detection.events import LineageProcess
from services.detection.incidents import main, page_text, render, to_json, tree
from services.settings import Settings
from services.store.incidents import (
    Incident,
    IncidentPage,
    StoredAlert,
    Timeline,
    incident_id,
)
from services.store.settings import StoreSettings
from services.store.sqlite import SqliteStore
from tests.services.store.cast import NOW_MS, alert
from transport.messages import Alert

INIT = LineageProcess(1, 10, 0, 0, "systemd")
SHELL = LineageProcess(300, 30, 1, 10, "bash")
CURL = LineageProcess(400, 40, 300, 30, "curl")
NC = LineageProcess(500, 50, 300, 30, "nc")
SH = LineageProcess(600, 60, 500, 50, "sh")
LINEAGE = "300-30"
ID = incident_id(tenant_id="acme", agent_id="agent-1", boot_id="6f9a", lineage=LINEAGE)


def of(number: int, *processes: LineageProcess, **own: Any) -> Alert:
    values: dict[str, Any] = {"lineage": LINEAGE, "boot_id": "6f9a", "processes": processes}
    return alert(number, **{**values, **own})


def stored(told: Alert) -> StoredAlert:
    quiet = told.level == "informational"
    return StoredAlert(told, "quiet" if quiet else "page", "open", told.observed_at_unix_ms)


TOLD = [
    of(0, SHELL, CURL, rule="Download", author="Ann Author", level="high"),
    of(1, SHELL, NC, rule="Reverse shell", count=3, event_comm="nc"),
    of(2, SHELL, NC, rule="Reverse shell"),
    of(3, SHELL, NC, SH, rule="Shell", level="informational"),
]


def an_incident(**own: Any) -> Incident:
    values: dict[str, Any] = {
        "incident_id": ID,
        "tenant_id": "acme",
        "agent_id": "agent-1",
        "hostname": "web-1",
        "boot_id": "6f9a",
        "lineage": LINEAGE,
        "first_seen_at_unix_ms": NOW_MS,
        "last_seen_at_unix_ms": NOW_MS + 1500,
        "alerts": 4,
        "hits": 6,
        "score": 120,
        "level": "high",
        "severity": "HIGH",
        "status": "open",
    }
    return Incident(**{**values, **own})


def test_processes_stand_below_their_parents_with_what_was_said_of_them() -> None:
    assert tree([stored(each) for each in TOLD]) == [
        "bash (300)",
        "├─ curl (400)  ! Download",
        "└─ nc (500)  ! Reverse shell",
        "   └─ sh (600)  ! Shell",
    ]
    early = of(4, INIT, SHELL)
    lines = tree([stored(each) for each in (*TOLD, early)])
    assert lines[:3] == [
        "systemd (1)",
        "└─ bash (300)  ! rule",
        "   ├─ curl (400)  ! Download",
    ]


def test_without_processes_there_is_no_tree() -> None:
    assert tree([stored(of(0))]) == []


Pids = st.integers(0, 4)
Lineages = st.lists(
    st.lists(st.builds(LineageProcess, Pids, Pids, Pids, Pids, st.text(max_size=3)), max_size=8),
    max_size=4,
)


@given(lineages=Lineages)
def test_whatever_alerts_claim_each_process_is_shown_once(
    lineages: list[list[LineageProcess]],
) -> None:
    lines = tree([stored(of(n, *each)) for n, each in enumerate(lineages)])
    assert len(lines) == len({(each.pid, each.start_ns) for own in lineages for each in own})
    assert all(line.isprintable() for line in lines)


def test_a_long_lineage_is_no_trouble() -> None:
    chain = [LineageProcess(n + 1, n + 1, n, n, "sh") for n in range(3000)]
    alerts = [stored(of(n, *chain[n : n + 64])) for n in range(0, 3000, 50)]
    assert len(tree(alerts)) == 3000


def test_an_incident_is_read_from_its_head_to_its_last_alert() -> None:
    text = render(Timeline(an_incident(alerts=9), [stored(each) for each in TOLD]))
    head, *_, last = text.splitlines()
    assert head.startswith(f"{ID}  high  score 120 HIGH  open  web-1  4 alerts"[:60])
    assert "high  Download by Ann Author: curl (400) curl" in text
    assert "Reverse shell (3 times): nc (400)" in text
    assert "informational (quiet)  Shell" in text
    assert last == "  and 5 more alerts"


def test_what_a_process_wrote_cannot_deceive() -> None:
    hostile = of(
        0, msgspec.structs.replace(CURL, name="a\x1b[2J"), event_comm="\u202eb", detail="\r"
    )
    text = render(Timeline(an_incident(hostname="h\x07"), [stored(hostile)]))
    assert all(line.isprintable() for line in text.splitlines())


def test_a_list_says_where_it_goes_on() -> None:
    assert page_text(IncidentPage([], "")) == "no incidents\n"
    text = page_text(IncidentPage([an_incident()], "5-x"))
    assert text.splitlines()[1] == "more: --cursor 5-x"
    assert json.loads(to_json(IncidentPage([an_incident()], "5-x")))["cursor"] == "5-x"


# The command


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=StoreSettings(url=f"sqlite:{tmp_path}/store.db"))


async def fill(settings: Settings) -> None:
    store = SqliteStore(settings.store)
    await store.open()
    await store.add_alerts([*TOLD, of(9, INIT, lineage="1-10")])
    await store.close()


def test_the_command_lists_incidents_and_tells_one(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    trio.run(fill, settings)
    assert main([], settings) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2
    assert main([ID], settings) == 0
    assert "└─ nc (500)  ! Reverse shell" in capfd.readouterr().out
    assert main([ID, "--json"], settings) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["incident"]["alerts"], len(record["alerts"]), len(record["tree"])) == (4, 4, 4)
    assert main(["--json", "--limit", "1"], settings) == 0
    page = json.loads(capfd.readouterr().out)
    assert main(["--json", "--cursor", page["cursor"]], settings) == 0
    rest = json.loads(capfd.readouterr().out)
    found = [each["incident_id"] for each in (*page["incidents"], *rest["incidents"])]
    assert (len(set(found)), rest["cursor"]) == (2, "")


def test_what_is_not_there_is_said_in_one_line(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([], settings) == 74
    assert "there is no such store" in capfd.readouterr().err
    trio.run(fill, settings)
    assert main(["no-such"], settings) == 1
    assert capfd.readouterr().err == "lavender: no-such: there is no such incident\n"
    assert main(["--cursor", "page-two"], settings) == 1
    assert "no list ended there" in capfd.readouterr().err
