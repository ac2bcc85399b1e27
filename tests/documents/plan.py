"""Which documented command is run where. Every command of README and docs stands here.

SCENES are played for real by `test_commands.py`. ELSEWHERE has the commands that cannot be: those
that run the tests themselves, for one. Each names the test that does run it, as ``file::test``, or
a line of CI, as ``.ci/run: line``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.documents import tutorial
from tests.documents.scene import Have, Run, Serve, Step, Stop

WATCHING = "Lavender is watching"
STACK = ".venv/bin/python -m services.stack --data ./data"
STACK_RUNS = "backend is running"
INTERRUPTED = (0, 2, 130, -2)
"""Make's exit codes when it is interrupted: it may or may not wait for what its program says."""
STOPPED = (0, 3)
"""The ledger's exit codes where an agent may have been stopped for a minute."""
_LISTENING_STACK = f"LAVENDER_STACK__LISTEN=127.0.0.1:9100 {STACK}"
_BACKUP = (
    "umask 077 && python3 -c 'import sqlite3;"
    ' sqlite3.connect("data/lavender.db").execute("VACUUM INTO ?", ["backup.db"])\''
)
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

_PLAN = "docs/ARCHITECTURE_MIGRATION_PLAN.md"
_BROKERS = "nats://brokers.example.org:4222"
_SEED = "LAVENDER_BROKER__NKEY_SEED_FILE=/etc/nats/secrets/services"
CONNECTED = "broker connected"
READY = "Server is ready"


def _block(document: str, language: str, number: int, target: str) -> Run:
    """The reader writes a block of a document into a file."""
    words = f"python -m tests.documents.extract {document} {language} {number} > {target}"
    return Run(words, ours=True)


def _events(agent: str, *, url: str = "nats://127.0.0.1:4222") -> Run:
    """An agent of the tests sends some."""
    words = f"python -m tests.faults.emitter --url {url} --spool /tmp/spool-{agent}"
    text = f"{words} --agent {agent} --total 3000 --rate 3000"
    return Run(text, says='"left": 0', ours=True)


def _arrived(agent: str) -> Run:
    """All of it is in the store."""
    text = f"python -m services.ledger --agent {agent}"
    return Run(text, says="  balanced", within_secs=30, ours=True)


def _service(name: str, text: str) -> Serve:
    return Serve(text, until=CONNECTED, name=name)


def _with_listen(name: str, service: str, port: int) -> Serve:
    variable = f"LAVENDER_{service.upper()}__LISTEN=127.0.0.1:{port}"
    return _service(name, f"{variable} .venv/bin/python -m services.{service}")


_NAMES = ("ingest", "telemetry_writer", "detection", "alert_writer")
_listening = [_with_listen(name, name, port) for port, name in enumerate(_NAMES, 9101)]
_workers = [_with_listen(f"detection{port}", "detection", port) for port in (9103, 9105)]
_with_seeds = [
    _service(name, f"{_SEED}/{name.replace('_', '-')}.seed .venv/bin/python -m services.{name}")
    for name in _NAMES
]
_brokers = [
    Serve(
        f"NAME={name} HOST=127.0.0.{n} STORE=data/{name}"
        " .venv/bin/nats-server --config cluster.conf",
        until=READY,
        name=name,
        codes=(0, 1),
    )
    for n, name in enumerate(("one", "two", "three"), 1)
]

SCENES: Mapping[str, Sequence[Step]] = {
    "a newcomer's hour": tutorial.STEPS,
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
        Run("sudo .venv/bin/python -m actors.agent --detach", says="left", within_secs=120),
        Run("sudo .venv/bin/python -m actors.agent --check", says="fields from BTF"),
        Serve(_LISTENING_STACK, until=STACK_RUNS, name="stack"),
        Run(
            "LAVENDER_BROKER__NKEY_SEED_FILE=data/nats/keys/services.seed"
            " .venv/bin/python -m services.ingest --check",
            says="connected",
            within_secs=10,
        ),
        Run("curl --silent --fail http://127.0.0.1:9100/healthz", says="ok", within_secs=10),
        Run("curl --silent --fail http://127.0.0.1:9100/metrics", says="lavender_broker_connected"),
        Run(
            "curl --silent http://127.0.0.1:9100/metrics | python -m tests.documents.facts",
            ours=True,
        ),
        Run(".venv/bin/python -m services.ledger --since 1h", code=STOPPED, says="as of"),
        Run(
            ".venv/bin/python -m services.ledger --json --count-rows --agent dev-agent-1",
            code=STOPPED,
        ),
        Run(_BACKUP),
        Stop("stack"),
        Run("rm -f data/lavender.db data/lavender.db-wal data/lavender.db-shm"),
        Run("cp backup.db data/lavender.db"),
        Serve(STACK, until=STACK_RUNS, name="stack"),
        Run("python -m services.ledger", code=STOPPED, says="as of", within_secs=10, ours=True),
    ],
    "several processes": [
        Serve(STACK, until=STACK_RUNS, name="stack"),
        _events("one"),
        Stop("stack"),
        _block(_PLAN, "conf", 0, "broker.conf"),
        Serve(".venv/bin/nats-server --config broker.conf", READY, "broker", codes=(0, 1)),
        Run(
            "export LAVENDER_STORE__URL=sqlite:data/lavender.db"
            " LAVENDER_BROKER__NKEY_SEED_FILE=data/nats/keys/services.seed"
        ),
        *_listening,
        _arrived("one"),
        _events("two"),
        _arrived("two"),
        Run(".venv/bin/python -m services.ledger", code=STOPPED, says="as of"),
        # Another store.
        Have("postgres"),
        Run("export LAVENDER_STORE__URL=postgresql://lavender@127.0.0.1/lavender"),
        Run(".venv/bin/python -m services.telemetry_writer --check", says="reached; empty"),
        Stop("telemetry_writer"),
        Stop("alert_writer"),
        _events("three"),
        Serve(".venv/bin/python -m services.telemetry_writer", CONNECTED, "telemetry_writer"),
        Serve(".venv/bin/python -m services.alert_writer", CONNECTED, "alert_writer", ours=True),
        _arrived("three"),
        # Several workers.
        Stop("detection"),
        Serve(
            "redis-server --bind 127.0.0.1 --port 6379 --maxmemory-policy noeviction"
            " --appendonly yes --dir data",
            until="Ready to accept connections",
            name="redis",
        ),
        Run("export LAVENDER_DETECTION__STATE=redis://127.0.0.1:6379/0"),
        *_workers,
        _service(
            "ingest2", "LAVENDER_INGEST__LISTEN=127.0.0.1:9106 .venv/bin/python -m services.ingest"
        ),
        Run(
            "curl --silent http://127.0.0.1:9103/metrics",
            says="lavender_detection_state_partitions_held 8.0",
            within_secs=20,
        ),
        Stop("detection9105"),
        Run(
            "curl --silent http://127.0.0.1:9103/metrics | grep partitions_held",
            says="lavender_detection_state_partitions_held 16.0",
            within_secs=20,
            ours=True,
        ),
        _events("four"),
        _arrived("four"),
        # A backup of it.
        Run(
            "pg_dump --format=custom --file=lavender.dump postgresql://lavender@127.0.0.1/lavender"
        ),
        Run("createdb --host=127.0.0.1 --username=lavender lavender_restored"),
        Run("pg_restore --dbname=postgresql://lavender@127.0.0.1/lavender_restored lavender.dump"),
        Run(
            "LAVENDER_STORE__URL=postgresql://lavender@127.0.0.1/lavender_restored"
            " .venv/bin/python -m services.ledger",
            code=STOPPED,
            says="acme/four",
        ),
    ],
    "accounts": [
        Have("nats-server"),
        Run(
            ".venv/bin/python docker/nats/make-config /etc/nats/secrets --host localhost"
            " --host broker.example.org --agent acme.web-1"
        ),
        Run("cp docker/nats/nats-server.conf /etc/nats/nats-server.conf"),
        Run("sed -i 's|/data|/var/lib/nats|' /etc/nats/nats-server.conf"),
        Serve("nats-server --config /etc/nats/nats-server.conf", READY, "broker", codes=(0, 1)),
        Run(
            "export LAVENDER_BROKER__URL=tls://localhost:4222"
            " LAVENDER_BROKER__TLS_CA_FILE=/etc/nats/secrets/ca.crt"
        ),
        *_with_seeds,
        Run(
            f"{_SEED}/ingest.seed .venv/bin/python -m services.ingest --check",
            says="connected to tls://localhost:4222",
        ),
        Run(f"{_SEED}/ingest.public python -m services.ingest --check", code=2, ours=True),
    ],
    "cluster": [
        _block(_PLAN, "conf", 1, "cluster.conf"),
        Run(
            "for n in 1 2 3; do echo 127.0.0.$n brokers.example.org; done >> /etc/hosts", ours=True
        ),
        *_brokers,
        Run(
            "export LAVENDER_BROKER__REPLICAS=3"
            " LAVENDER_BROKER__URL=nats://brokers.example.org:4222"
        ),
        Run("export LAVENDER_STORE__URL=sqlite:cluster.db", ours=True),
        Serve(".venv/bin/python -m services.ingest", CONNECTED, "ingest"),
        Serve(".venv/bin/python -m services.telemetry_writer", CONNECTED, "telemetry_writer"),
        Serve(".venv/bin/python -m services.alert_writer", CONNECTED, "alert_writer", ours=True),
        _events("five", url=_BROKERS),
        _arrived("five"),
        Stop("one"),
        _events("six", url=_BROKERS),
        _arrived("six"),
    ],
}

_HERE = "tests/documents/test_commands.py"
_DEB = "tests/packages/test_deb.py::test_a_debian_package_is_installed_upgraded_and_purged"
ELSEWHERE: Mapping[str, str] = {
    "git pull": f"{_HERE}::test_a_checkout_is_brought_up_to_date",
    "make lint": ".ci/run: make lint test",
    "make test": ".ci/run: make lint test",
    "make faults": ".ci/run: make faults",
    "make soak": ".ci/run: make soak",
    "make test-packages": ".ci/run: make test-packages",
    "make test-compose": ".ci/run: make test-compose",
    "make deb": "tests/packages/conftest.py::built",
    "make sbom": "tests/packages/test_files.py::test_the_bill_of_materials_is_what_is_installed",
    "systemctl enable --now lavender-agent": _DEB,
    "journalctl -u lavender-agent": (
        "tests/packages/test_units.py::test_an_agent_that_hangs_is_replaced_by_one_that_reads_on"
    ),
    "docker compose up --build": "tests/compose/test_stack.py::test_the_readmes_commands_work",
    "make docs": f"{_HERE}::test_make_docs_changes_nothing",
    "make help": f"{_HERE}::test_make_help_names_every_target",
    ".venv/bin/python -m tests.bench --help": f"{_HERE}::test_every_documented_measure_exists",
    "make bench": f"{_HERE}::test_a_measure_is_made",
    'make bench BENCH_ARGS="--json opens-all"': f"{_HERE}::test_a_measure_is_made",
    "sudo .venv/bin/python -m tests.bench NAME": f"{_HERE}::test_a_measure_is_made",
    ".venv/bin/python -m tests.bench sizes": f"{_HERE}::test_a_measure_is_made",
}
