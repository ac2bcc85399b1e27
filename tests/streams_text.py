"""What EVENT_STREAMS_AND_INTERFACES.md says that is not in the types."""

from __future__ import annotations

HEAD = """# Event streams and interfaces

Written by `make docs` from the types of `transport/messages.py` and `actors/detection/events.py`; a test holds it to them
and reads every example with the decoder of its type.

Payloads are JSON in UTF-8. Integers are bounded as the tables say, and texts too: what is beyond is refused, not cut. Fields
that a reader does not know are ignored, so fields may be added; none changes its meaning. Times named `_unix_ms` are
milliseconds since 1970 UTC; those named `_ns` count nanoseconds since the boot of the machine (CLOCK_BOOTTIME), so an event
happened at `boot_unix_ns + time_ns`. A process is told apart by boot id, pid and start time; start times are whole clock ticks of
10 ms ([decisions/0004](decisions/0004-start-times-in-ticks.md)). A byte of a name, path or argument that is not UTF-8 stands as
`\\xff`. Everything a watched program chooses (names, arguments, paths) may hold control characters and is hostile.

## Subjects

| subject | payload | from | to |
|---|---|---|---|
| `telemetry.raw.<tenant>.<agent_id>` | [Batch](#batch), [Single](#single) | agent | ingest |
| `telemetry.accepted.<tenant>.<agent_id>` | [CanonicalBatch](#canonicalbatch), [CanonicalSingle](#canonicalsingle) | ingest | telemetry writer |
| `detection.<partition>.<tenant>.<agent_id>` | the same, copied by the broker | - | detection |
| `telemetry.invalid.<tenant>.<agent_id>` | [Invalid](#invalid) | ingest, writers, detection | telemetry writer |
| `alerts.<tenant>.<agent_id>` | [Alert](#alert) | agent, detection | alert writer |
| `heartbeat.<tenant>.<agent_id>` | [Heartbeat](#heartbeat), core NATS: nothing is stored | agent | who listens |
| `deadletter.<durable>.<tenant>.<agent_id>` | what could not be dealt with | services | people |
| `cmd.<tenant>.<agent_id>` | nothing yet | - | - |

Tenant and agent are one token each. The prefixes of telemetry and heartbeats are `agent.telemetry_subject_prefix` and
`agent.heartbeat_subject_prefix`; the streams below expect the ones shown.
"""

BATCHES = """
Every stream is a file, refuses what is new when it is full (`discard: new`), and has no limit of deliveries
([decisions/0007](decisions/0007-five-deliveries.md)); services make room of what every reader is done with. Several processes with one
durable name share its work. Every publish carries `Nats-Msg-Id`. That of a raw batch and of an alert is `<tenant>.<agent_id>.<digest>`, the
BLAKE2b of the payload in 32 hexadecimal digits: no agent can know another's in advance. That of a canonical message is `<tenant>.<agent_id>.`
and its batch or event id, that of a rejected one its `invalid_id`. A publisher that has no ack publishes again under the same id.

## Batches of events: schema_version 2
"""

V1 = """
## One event a message: schema_version 1

What the first Lavender sent. Ingest takes it, the store keeps it; detection workers do not, for its events name no start times.
"""

COMMANDS = """
## Commands

`cmd.<tenant>.<agent_id>` is reserved for commands and policy to one agent. Nothing subscribes to it or publishes on it today: an agent
takes no command from the network. See [ROADMAP.md](ROADMAP.md).
"""

LEDGER = """
## The ledger

`python -m services.ledger --json` prints one object: `balanced`, and `agents`, each an account of the fields below with `balanced` (every sum holds, and the agent is not silent) and
`problems` (each sum that does not hold, in words). The sums are those of `services/ledger/balance.py`:

```text
seen      = filtered + suppressed + throttled + lost + delivered
delivered = read + in_rings + abandoned
read + seeds = unpublished + dropped + spooled
spooled   = evicted + rejected + stored + outside + missing
```
"""

LOCAL_HEAD = """
## What the agent prints

With `--output json` (the default) one object per line. Standard output: `"type": "exec"` and `"type": "conn"`. Standard error:
`"type": "alert"`, and by `"kind"` `response`, `status` (every `agent.heartbeat_interval_secs`) and `log`; and a few lines that are
plain text: `Lavender is watching. Ctrl+C to stop` and what begins with `lavender: `. Lines that a slow reader does not take are dropped
and counted. Services print their log lines on standard error in the same form.
"""

LINE_FIELDS = {
    ("", "user"): "Name of `uid` on this host, or its digits.",
    ("", "timestamp"): "When it happened, UTC, RFC 3339 with milliseconds.",
    ("", "ancestry"): "The lineage, oldest first: `init=>sshd=>bash=>curl`.",
    ("", "error"): "Name of the errno (`EACCES`) if the call failed; else absent.",
    ("line exec", "cmdline"): "The arguments, joined by spaces.",
    ("line conn", "path"): "Path of a unix socket; else absent.",
    ("ledger", "tenant_id"): "The tenant.",
    ("ledger", "agent_id"): "The agent.",
    ("ledger", "seen"): "Events that the kernel's hooks saw.",
    ("ledger", "filtered"): "Of these, nobody's business.",
    ("ledger", "suppressed"): "Of these, repeats of an open.",
    ("ledger", "throttled"): "Of these, calls of a process or user that floods.",
    ("ledger", "read"): "Read from the rings by the agent.",
    ("ledger", "spooled"): "Written to the agent's spool.",
    ("ledger", "stored"): "Rows of the store.",
    ("ledger", "alerts_raised"): "Alerts that the agent raised.",
    ("ledger", "alerts_dropped"): "Alerts lost inside the agent, or evicted from its spool.",
    ("ledger", "alerts_stored"): "Alerts of the agent in the store.",
}

LINE_SECTIONS = {
    "line alert": "A rule has matched. `severity` is what the score makes of it: below 50 `INFO`, 50 to 99 `WARNING`, 100 to 149"
    " `HIGH`,\nfrom 150 `CRITICAL`. The fields are those of [Alert](#alert) under shorter names: `pid` and `comm` of the process, `event`"
    " the\ntype of the deciding event. A rule that goes on firing in one lineage is told at the 1st, 2nd, 4th, 8th … time, with `count`.",
    "line response": "What the responder has decided about a process whose score reached `response.kill_threshold`. `action` is `killed`,"
    "\n`would_kill` (dry run), `protected`, `gone` (it had ended by itself) or `failed`; `reason` says why.",
    "line status": "Every counter there is. `probes` by probe, `detection` from the engine (or `unavailable` with the reason), `actors`"
    " by\nactor; [OPERATIONS.md](OPERATIONS.md#metrics) says what each means. Heartbeats carry the same record as `status`.",
    "line log": "What the program says of itself: `event` is one of a fixed set of messages, which [OPERATIONS.md](OPERATIONS.md#log-lines)"
    "\nexplains, `level` is `debug` to `error`, the other fields are the facts.",
}

RECORDINGS = """
## Recordings

`--record FILE` writes JSON lines: a header, then one line for each sweep, the list of its events in the order in which detection took
them. `--replay`, `rules explain --recording` and `backtest --recording` read them. The last line may be unfinished, as a crash leaves it.
"""
