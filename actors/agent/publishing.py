"""What publishing needs before the topology runs: folder, spool, connection, identity, old marks.

Split in two, for the agent gives up root in between: `prepare` makes the folder and reads the
credentials, `open_publishing` opens the spool as the user that the agent runs as.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from actors.agent.batches import Sender
from actors.agent.privileges import unprivileged_user
from actors.agent.sensor import Sensor
from actors.agent.settings import Settings
from actors.agent.shipping import Shipping
from actors.agent.spooling import Publishing
from actors.rulebook import RuleBook
from actors.rulefiles import RuleFiles
from bpf.pins import folder_name
from transport import local_key
from transport.messages import Gap, Host
from transport.session import Session
from transport.spool import Spool
from transport.spool_errors import SpoolError
from transport.spool_folder import prepare_folder
from transport.subjects import Address

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_EPOCH_BYTES = 8


@dataclass(frozen=True)
class Prepared:
    """What was done as root."""

    session: Session
    folder: Path


def prepare(settings: Settings) -> Prepared:
    """Make the spool's folder, and read the credentials while that is still allowed.

    Raises:
        TransportError: the credentials cannot be used.
        OSError: the folder cannot be made.
        SpoolError: the folder is no spool's.
    """
    agent = settings.agent
    named = settings.broker.nkey_seed_file or settings.broker.credentials_file
    session = Session(
        settings.broker,
        identity=None if named else local_key.find(agent.nats_url),
        name=f"agent-{agent.agent_id}",
        url=agent.nats_url,
        inbox_prefix=f"_INBOX.{agent.tenant_id}.{agent.agent_id}",
    )
    user = unprivileged_user()
    names = (folder_name(agent.tenant_id), folder_name(agent.agent_id))
    folder = prepare_folder(settings.publish.spool, names, uid=user.pw_uid, gid=user.pw_gid)
    return Prepared(session, folder)


def open_publishing(
    settings: Settings, prepared: Prepared, sensor: Sensor, *, rules: RuleFiles
) -> Publishing:
    """Open the spool, and let the sensor read on where the agent before this one stood.

    Raises:
        SpoolError: the spool cannot be opened.
    """
    publish = settings.publish

    def open_spool() -> Spool:
        return Spool.open(
            prepared.folder,
            max_bytes=publish.spool_max_bytes,
            max_age_secs=publish.spool_max_age_secs,
        )

    shipping = Shipping(prepared.session, open_spool)
    if shipping.opened.how == "set_aside":
        log.error(
            "spool could not be used; it is set aside and a new one begun",
            why=shipping.opened.reason,
            set_aside=str(shipping.opened.path),
        )
    now_ms = time.time_ns() // 1_000_000
    gaps = _start_gaps(shipping, sensor, now_ms=now_ms)
    address = Address(settings.agent.tenant_id, settings.agent.agent_id)
    host = Host(sensor.hostname, sensor.boot_id, sensor.boot_unix_ns)
    return Publishing(
        settings=publish,
        sender=Sender(
            address=address,
            host=host,
            epoch=os.urandom(_EPOCH_BYTES).hex(),
            telemetry_prefix=settings.agent.telemetry_subject_prefix,
        ),
        shipping=shipping,
        heartbeat_prefix=settings.agent.heartbeat_subject_prefix,
        policy_version=lambda: _policy_version(settings, rules.book),
        start_gaps=gaps,
        watching_since_unix_ms=now_ms if gaps else None,
    )


def _start_gaps(shipping: Shipping, sensor: Sensor, *, now_ms: int) -> list[Gap]:
    """Why there may be a hole before this start; none where the probes went on by themselves."""
    marks = shipping.marks
    since_ms = 0 if marks is None else marks.at_unix_ms
    gaps = []
    if shipping.opened.how == "set_aside":
        gaps.append(Gap(since_ms, now_ms, "spool_corrupt"))
    if not sensor.taken_over:
        gaps.append(
            Gap(since_ms, now_ms, f"not_watching: {sensor.start_gap or 'first start'}"[:64])
        )
    elif marks is None or marks.load_id != sensor.load_id:
        # Nothing says how far its predecessor came: what is in the rings may come twice.
        log.warning("rings were taken over, but no marks of the spool fit them")
    elif lost := sensor.resume(marks.positions):
        log.warning("rings do not hold the spool's marks", rings=list(lost))
    return gaps


def _policy_version(settings: Settings, rules: RuleBook) -> str:
    policy = settings.filters.model_dump_json() + settings.response.model_dump_json()
    return hashlib.sha256(policy.encode() + rules.digest()).hexdigest()[:16]


def try_to_open(
    settings: Settings, prepared: Prepared | None, sensor: Sensor, *, rules: RuleFiles
) -> Publishing | None:
    """`open_publishing`, or None: an agent without a spool still detects and responds."""
    if prepared is None:
        return None
    try:
        return open_publishing(settings, prepared, sensor, rules=rules)
    except SpoolError as error:
        log.error(  # noqa: TRY400 - the operator's to mend: no traceback
            "spool cannot be opened; nothing is published", why=str(error)
        )
        return None
