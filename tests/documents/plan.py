"""Which documented command is run where. Every command of README and docs stands here.

SCENES are played for real by `test_commands.py`. ELSEWHERE has the commands that cannot be: those
that run the tests themselves, for one. Each names the test that does run it, as ``file::test``, or
a line of CI, as ``.ci/run: line``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.documents.scene import Have, Run, Serve, Step, Stop

WATCHING = "Lavender is watching"
STACK = ".venv/bin/python -m services.stack --data ./data"
STACK_RUNS = "backend is running"
INTERRUPTED = (2, 130, -2)
"""Make's exit codes when it is interrupted, whatever the program it ran has said."""
_RULE = (
    "python -c 'from tests.test_rules_document import RULES; print(RULES[0])'"
    " | tee rules/curl-into-tmp.toml > rules/mine.toml"
    " && sed -i s/curl-into-tmp/mine/ rules/mine.toml"
)
_SIGMA = (
    "mkdir -p rules/sigma && printf '%s\\n' 'title: Reads the machine id' "
    "'id: 8a1b0c9e-3b1f-4b52-9c51-0c8d7b0f5f11' 'status: test' 'level: low' 'logsource:' "
    "'  product: linux' '  category: process_creation' 'detection:' '  selection:' "
    "'    CommandLine|contains: machine-id' '  condition: selection' > rules/sigma/one.yml"
)
_ATTACK = '/usr/bin/python3 -c \'import subprocess; subprocess.run(["/bin/sh", "-c", ": base64"])\''
_INCIDENT = (
    "python -m services.detection incidents --json"
    " | python -c 'import json, sys;"
    ' print(json.load(sys.stdin)["incidents"][0]["incident_id"])\''
)

SCENES: Mapping[str, Sequence[Step]] = {
    "one machine": [
        Run("make setup"),
        Run(
            "LAVENDER_AGENT__HEARTBEAT_INTERVAL_SECS=60"
            " .venv/bin/python -m actors.agent --show-topology",
            says="heartbeat",
        ),
        Serve(STACK, until=STACK_RUNS, name="stack"),
        Serve("sudo make run", until=WATCHING, name="agent", codes=INTERRUPTED),
        Run(_ATTACK, ours=True),
        Run("export LAVENDER_STORE__URL=sqlite:data/lavender.db"),
        Run("python -m services.detection incidents --since 1d", says="score", within_secs=20),
        Run("python -m services.detection incidents ID", fill={"ID": _INCIDENT}, says="T1027"),
        Run(".venv/bin/python -m services.detection incidents", says="score"),
        Run(".venv/bin/python -m services.detection rules list", says="active"),
        Run("mkdir -p rules"),
        Run(_RULE, ours=True),
        Run(
            ".venv/bin/python -m services.detection backtest rules/mine.toml --since 7d",
            says="events",
        ),
        Stop("agent"),
        Run(
            ".venv/bin/python -m services.ledger --config lavender.toml",
            says="balanced",
            within_secs=20,
        ),
        Run("python -m services.detection rules check rules"),
        Run("python -m services.detection rules test rules", says="passed, 0 failed"),
        Run("python -m services.detection rules list", says="curl-into-tmp"),
        Serve(
            "sudo python -m actors.agent --record /tmp/today.rec --output none",
            until=WATCHING,
            name="recorder",
        ),
        Run(_ATTACK, ours=True),
        Stop("recorder"),
        Run(
            "python -m services.detection rules explain rules/curl-into-tmp.toml"
            " --recording /tmp/today.rec",
            says="endswith",
        ),
        Run(
            "python -m services.detection backtest rules/curl-into-tmp.toml --since 7d",
            says="events",
        ),
        Run(
            "python -m services.detection rules show sensitive-file-read"
            " > rules/sensitive-file-read.toml"
        ),
        Run(_SIGMA, ours=True),
        Run("python -m services.detection rules compile rules/sigma --output rules/sigma.json"),
        Stop("stack"),
        Serve("sudo .venv/bin/python -m actors.agent", until=WATCHING, name="agent"),
        Stop("agent"),
    ],
}

ELSEWHERE: Mapping[str, str] = {}
