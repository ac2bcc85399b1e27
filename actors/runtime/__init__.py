"""The actor library: actors, mailboxes, supervisors and topologies on trio.

It knows nothing of processes, files or rules. `actors.runtime.testing` is its test kit.
"""

from actors.runtime.actor import Actor, Context
from actors.runtime.errors import (
    ActorError,
    AskDroppedError,
    AskError,
    AskTimeoutError,
    EscalationError,
    Problem,
    RestartIntensityExceeded,
    StartError,
    TargetCrashedError,
    TargetStoppedError,
    TopologyError,
    UndeclaredMessageError,
)
from actors.runtime.mailbox import Mailbox, Overflow
from actors.runtime.spec import ChildSpec, Restart, Strategy, Topology
from actors.runtime.statistics import ActorStatistics
from actors.runtime.supervisor import End, Supervisor
from actors.runtime.system import ExitReason, Outcome, run_topology
from actors.runtime.topology import Kind, load_topology, render

__all__ = [
    "Actor",
    "ActorError",
    "ActorStatistics",
    "AskDroppedError",
    "AskError",
    "AskTimeoutError",
    "ChildSpec",
    "Context",
    "End",
    "EscalationError",
    "ExitReason",
    "Kind",
    "Mailbox",
    "Outcome",
    "Overflow",
    "Problem",
    "Restart",
    "RestartIntensityExceeded",
    "StartError",
    "Strategy",
    "Supervisor",
    "TargetCrashedError",
    "TargetStoppedError",
    "Topology",
    "TopologyError",
    "UndeclaredMessageError",
    "load_topology",
    "render",
    "run_topology",
]
