"""The responder: decides what is done about a process, and does it.

A kill goes through a pidfd whose process was checked to be the one meant: same pid, same start
time. Whatever the decision, it is told with its reason.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import trio

from actors.agent.messages import AlertBatch, Response, ResponseBatch
from actors.agent.seeds import start_ns_of
from actors.agent.settings import ResponseSettings
from actors.detection.alerts import Alert
from actors.detection.events import Identity
from actors.detection.names import NameList
from actors.detection.programs import Programs
from actors.runtime import Actor

_REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a process, and why."""

    action: str
    reason: str


def kill(identity: Identity) -> Verdict:
    """Kill exactly this process, or say why not."""
    pid, start_ns = identity
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return Verdict("gone", "the process had ended")
    except OSError as error:
        return Verdict("failed", f"pidfd_open: {error.strerror}")
    try:
        # Now the pid cannot be given to another process without our pidfd knowing.
        if start_ns_of(pid) != start_ns:
            return Verdict("gone", "the pid belongs to another process by now")
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return Verdict("gone", "the process had ended")
    except OSError as error:
        return Verdict("failed", f"pidfd_send_signal: {error.strerror}")
    finally:
        os.close(pidfd)
    return Verdict("killed", "score reached the threshold")


class Responder(Actor):
    """Kills processes whose score reaches the threshold.

    Args:
        settings: threshold, protected programs, dry run.
        spared: pids never touched: the agent and its ancestors, as they were at its start.
        live: False in a replay, where there is nobody to respond to.
        act: does the killing.
    """

    accepts = (AlertBatch,)
    emits = (ResponseBatch,)

    def __init__(
        self,
        *,
        settings: ResponseSettings,
        spared: Collection[int],
        live: bool = True,
        act: Callable[[Identity], Verdict] = kill,
    ) -> None:
        self._settings = settings
        self._spared = frozenset(spared) | {0, 1}
        self._protected = NameList(settings.protected_comms)
        self._programs = Programs()
        self._live = live
        self._act = act
        self._settled: dict[Identity, str] = {}

    async def handle(self, message: AlertBatch) -> None:
        """Decide about every alert; a process once killed or found gone is settled."""
        responses = []
        for alert in message.alerts if self._live else ():
            if alert.score < self._settings.kill_threshold:
                self.context.log.debug("below threshold", pid=alert.pid, score=alert.score)
            elif alert.identity not in self._settled:
                responses.append(self._respond(alert))
        if responses:
            await self.context.tell(ResponseBatch(responses))
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    def _respond(self, alert: Alert) -> Response:
        verdict = self._decide(alert)
        if verdict.action in ("killed", "gone"):
            if len(self._settled) >= _REMEMBERED_MAX:
                del self._settled[next(iter(self._settled))]
            self._settled[alert.identity] = verdict.action
        return Response(
            pid=alert.pid,
            start_ns=alert.start_ns,
            comm=alert.comm,
            action=verdict.action,
            reason=verdict.reason,
            dry_run=self._settings.dry_run,
            score=alert.score,
            rule=alert.rule,
            time_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        )

    def _decide(self, alert: Alert) -> Verdict:
        if alert.pid in self._spared:
            return Verdict("protected", "init, the agent itself or one of its ancestors")
        program = self._programs.get(alert.comm, alert.exe, system=alert.system_exe)
        if self._protected.trusts(program):
            reason = f"{program.name} is in protected_comms and the system's own"
            return Verdict("protected", reason)
        if self._settings.dry_run:
            return Verdict("would_kill", "dry_run is on")
        return self._act(alert.identity)
