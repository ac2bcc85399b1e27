"""The ledger as people read it, and as programs do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from actors.detection.text import printable
from services.ledger.balance import Account
from services.times import iso

_GAPS_SHOWN = 10
_REASON_MAX = 200


def to_json(found: Sequence[Account]) -> str:
    """One object: the accounts, each with its problems, and whether all balance."""
    listed = [_record(each) for each in found]
    balanced = all(each.balanced for each in found)
    return json.dumps({"balanced": balanced, "agents": listed}) + "\n"


def _record(account: Account) -> dict[str, Any]:
    record = asdict(account)
    record["gaps"] = msgspec.to_builtins(account.gaps)
    return record | {"balanced": account.balanced, "problems": account.problems}


def to_text(found: Sequence[Account]) -> str:
    """A block for each agent: its hops from the kernel to the store, and where the rest went."""
    if not found:
        return "no agent has sent anything in this time range\n"
    return "\n".join(_block(each) for each in found)


def _block(account: Account) -> str:
    name = f"{printable(account.tenant_id)}/{printable(account.agent_id)}"
    known = f"as of {iso(account.as_of_unix_ms)}" if account.as_of_unix_ms else "no batch came"
    lines = [f"{name}  ({account.epochs} starts, {known})"]
    kernel = {
        "filtered": account.filtered,
        "suppressed": account.suppressed,
        "throttled": account.throttled,
        "lost": account.lost,
    }
    rings = {"in the rings": account.in_rings, "left in the rings": account.abandoned}
    agent = {"unpublished": account.unpublished, "dropped": account.dropped}
    spool = {f"evicted ({_short(why)})": count for why, count in account.evicted.items()}
    ingest = {f"rejected ({_short(why)})": count for why, count in account.rejected.items()}
    lines += [
        _line("seen by the kernel", account.seen, {}),
        _line("delivered", account.delivered, kernel),
        _line("read", account.read, rings),
        _line("seeds", account.seeds, {}),
        _line("spooled", account.spooled, agent),
        _line("accepted", account.accepted, {**spool, **ingest, "missing": account.missing}),
        _line("stored", account.stored, {"received at another time": account.outside}),
        _line("alerts stored", account.alerts_stored, {"dropped": account.alerts_dropped}),
    ]
    if account.rows is not None:
        lines.append(_line("rows counted", account.rows, {}))
    for reason, count in account.invalid_messages.items():
        lines.append(f"  {count} messages refused: {_short(reason)}")
    for gap in account.gaps[:_GAPS_SHOWN]:
        events = "" if gap.events is None else f", {gap.events} events"
        lines.append(
            f"  gap {gap.from_unix_ms} to {gap.to_unix_ms} ms: {_short(gap.reason)}{events}"
        )
    if len(account.gaps) > _GAPS_SHOWN:
        lines.append(f"  and {len(account.gaps) - _GAPS_SHOWN} more gaps")
    lines += [f"  NOT BALANCED: {each}" for each in account.problems]
    if account.silent:
        lines.append(f"  SILENT since {iso(account.as_of_unix_ms)}: nothing is known of later")
    elif not account.problems:
        lines.append("  balanced")
    return "\n".join(lines) + "\n"


def _short(reason: str) -> str:
    return printable(reason, limit=_REASON_MAX)


def _line(name: str, count: int, aside: Mapping[str, int]) -> str:
    shown = ", ".join(f"{number} {why}" for why, number in aside.items() if number)
    return f"  {name:<20}{count:>14}" + (f"   less {shown}" if shown else "")
