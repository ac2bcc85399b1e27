"""The library's exceptions, split by whose fault it is.

::

    ActorError
    ├── TopologyError              the configuration is wrong: the operator's
    ├── UndeclaredMessageError     an actor told what it does not emit: the actor's author's
    ├── AskError                   no reply came
    │   ├── AskTimeoutError        not in time
    │   ├── AskDroppedError        the target's mailbox dropped the question by policy
    │   ├── TargetCrashedError     the target crashed with the question in hand
    │   └── TargetStoppedError     the target was stopped before it replied
    └── EscalationError            the supervisor gave up; ``__cause__`` is the child's own error
        ├── StartError             an actor did not start the first time
        └── RestartIntensityExceeded   it crashed more often than its supervisor allows
"""

from dataclasses import dataclass


class ActorError(Exception):
    """Base of everything this library raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a topology: where, what it says, what would be right."""

    #: Dotted path of the key, `topology.agent.actors.console.kind`.
    key: str
    #: What stands there, as text; `missing` if nothing does.
    value: str
    #: What the operator should write or do instead.
    remedy: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}: {self.remedy}"


class TopologyError(ActorError):
    """The topology cannot be run as written; `problems` lists everything found, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class UndeclaredMessageError(ActorError):
    """An actor told, or asked, a message type that its `emits` and out-edges do not allow."""


class AskError(ActorError):
    """Base of the ways in which an ask ends without a reply."""


class AskTimeoutError(AskError):
    """The reply did not come in time; the target may still handle the message."""


class AskDroppedError(AskError):
    """The target's mailbox was full and dropped the message by its overflow policy."""


class TargetCrashedError(AskError):
    """The target crashed with the message in hand; the log has its error."""


class TargetStoppedError(AskError):
    """The target is stopped, or was stopped or restarted before it replied."""


class EscalationError(ActorError):
    """Base of the reasons for which a supervisor stops its children; `actor` names the culprit."""

    def __init__(self, text: str, *, actor: str) -> None:
        super().__init__(text)
        self.actor = actor


class StartError(EscalationError):
    """An actor's first start failed, so the topology does not run at all."""


class RestartIntensityExceeded(EscalationError):  # noqa: N818 -- OTP's word for it
    """An actor ended more often within the window than `max_restarts` allows."""


def true_error(error: BaseException) -> BaseException:
    """The error itself, taken out of the groups of one that nurseries wrap around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
