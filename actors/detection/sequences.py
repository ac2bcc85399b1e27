"""The sequences: what several events in one lineage tell together, as data."""

from __future__ import annotations

import msgspec

from actors.detection.conditions import Condition, EventType, must, must_not
from actors.detection.rules import OUTBOUND, SENSITIVE_READ, Level


class Step(msgspec.Struct, frozen=True):
    """One step of a sequence: an event for which all conditions hold."""

    event: EventType
    when: tuple[Condition, ...]


class Sequence(msgspec.Struct, frozen=True):
    """Steps in order within a window, or one step ``count`` times."""

    id: str
    label: str
    points: int
    level: Level
    techniques: tuple[str, ...]
    steps: tuple[Step, ...]
    count: int = 1
    """How often the step must be seen; more than 1 only for a sequence of one step."""
    window_secs: int | None = None
    """Seconds from the first step to the last; None for ``correlator_max_age_secs``."""


SEQUENCES = (
    Sequence(
        id="reverse-shell",
        label="CHAIN Reverse shell behaviour",
        points=90,
        level="critical",
        techniques=("T1059", "T1059.004"),
        steps=(
            Step(event="exec", when=(must("succeeded"), must("program-called", "bash"))),
            Step(
                event="connect",
                when=(*OUTBOUND, must_not("program-trusted-in", "known_network_callers")),
            ),
            Step(event="exec", when=(must("succeeded"), must("program-called", "sh"))),
        ),
    ),
    Sequence(
        id="credential-access-execution",
        label="CHAIN Credential access then execution",
        points=75,
        level="high",
        techniques=("T1003", "T1059"),
        steps=(
            Step(event="open", when=SENSITIVE_READ),
            Step(event="exec", when=(must("succeeded"),)),
        ),
    ),
    Sequence(
        id="rapid-spawning",
        label="CHAIN Rapid process spawning",
        points=60,
        level="medium",
        techniques=("T1059",),
        steps=(
            Step(
                event="exec",
                when=(must("succeeded"), must_not("program-trusted-in", "noisy_comms")),
            ),
        ),
        count=5,
        window_secs=10,
    ),
)
