"""The balance: what each hop says, put side by side, and what no hop accounts for. Pure.

::

    seen    = filtered + suppressed + throttled + lost + delivered   the kernel's counters
    delivered = read + in_rings                                  events not read yet, or never
    read + seeds = unpublished + dropped + spooled               the agent's
    spooled = evicted + rejected + stored + outside + missing    the spool's, ingest's, the store's

``missing`` is what is still on its way, or in a message that was refused whole, or gone: the only
number here that nobody vouches for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from services.store.interface import EpochFacts, LedgerFacts
from services.store.ledger import OTHER_REASONS, REASONS_MAX
from transport.messages import Counters, Gap

SILENT_AFTER_MS = 60_000
"""An agent sends a batch, if need be without events, with each status record: every 15 seconds."""
_KERNEL = ("seen", "filtered", "suppressed", "throttled", "lost", "delivered")


@dataclass(slots=True)
class Account:
    """One agent's ledger for a time range; all numbers are events unless they say otherwise."""

    tenant_id: str
    agent_id: str
    epochs: int = 0
    """Lives of the agent."""
    seen: int = 0
    filtered: int = 0
    suppressed: int = 0
    throttled: int = 0
    """Left out in the kernel: beyond what one process or one user may put into the rings."""
    lost: int = 0
    """Lost in the kernel: a ring was full."""
    delivered: int = 0
    """Written into the rings."""
    in_rings: int = 0
    """Written and not read with the last batch: on their way into the agent."""
    abandoned: int = 0
    """Written and never read: the agent ended and its probes with it."""
    read: int = 0
    seeds: int = 0
    """Processes that ran before the agent did: events that no ring held."""
    unpublished: int = 0
    """Not wanted by ``[publish]``."""
    dropped: int = 0
    """Lost inside the agent: full mailbox, crashed actor, failing spool."""
    spooled: int = 0
    evicted: dict[str, int] = field(default_factory=dict)
    """Left the spool unsent, by reason."""
    accepted: int = 0
    """Let through by ingest."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Taken out of batches, by reason."""
    stored: int = 0
    outside: int = 0
    """Received before or after the time range."""
    missing: int = 0
    """Spooled, and in none of the above."""
    invalid_messages: dict[str, int] = field(default_factory=dict)
    """Messages refused whole, by reason."""
    alerts_raised: int = 0
    alerts_dropped: int = 0
    alerts_stored: int = 0
    rows: int | None = None
    """Event rows counted in the tables; None if that was not asked for."""
    gaps: list[Gap] = field(default_factory=list)
    """What the agent itself could not vouch for."""
    as_of_unix_ms: int = 0
    """When its last batch was received: of what it did later nothing is known. 0: no batch came."""
    silent: bool = False
    """No batch came for longer than one that runs lets pass."""

    @property
    def balanced(self) -> bool:
        """Whether every sum holds, and is known up to now."""
        return not self.problems and not self.silent

    @property
    def problems(self) -> list[str]:
        """Each sum that does not hold, in words; empty if the ledger balances."""
        found = []
        apart = self.filtered + self.suppressed + self.throttled + self.lost
        if self.seen != apart + self.delivered:
            found.append("the kernel's counters do not add up")
        if self.read + self.seeds != self.unpublished + self.dropped + self.spooled:
            found.append("the agent's counters do not add up")
        if self.missing:
            found.append(f"{self.missing} spooled events have not arrived")
        overlap = self.rejected.get("overlap", 0)
        if self.accepted != self.stored + overlap:
            found.append(f"{self.accepted - self.stored - overlap} accepted events are not stored")
        if self.rows is not None and self.rows != self.stored:
            found.append(f"the tables hold {self.rows} events, the ledger {self.stored}")
        unstored = self.alerts_raised - self.alerts_dropped - self.alerts_stored
        if unstored > 0:
            found.append(f"{unstored} alerts have not arrived")
        return found


def accounts(
    facts: LedgerFacts, *, at_unix_ms: int, silent_after_ms: int = SILENT_AFTER_MS
) -> list[Account]:
    """One account for each agent the store knows of, by tenant and agent.

    Args:
        facts: what the store knows.
        at_unix_ms: the end of the time range, or now.
        silent_after_ms: an agent of which no batch came for longer is silent.
    """
    grouped = {
        key: list(epochs)
        for key, epochs in groupby(facts.epochs, lambda each: (each.tenant_id, each.agent_id))
    }
    keys = sorted({*grouped, *facts.invalid, *facts.rows, *facts.heard})
    found = [_account(*key, grouped.get(key, []), facts) for key in keys]
    for each in found:
        each.silent = 0 < each.as_of_unix_ms < at_unix_ms - silent_after_ms
    return found


def _account(
    tenant_id: str, agent_id: str, epochs: Sequence[EpochFacts], facts: LedgerFacts
) -> Account:
    account = Account(tenant_id, agent_id, epochs=sum(1 for each in epochs if each.epoch))
    _add_kernel(account, epochs)
    evicted: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for each in epochs:
        _add_agent(account, each)
        evicted += _add_arrivals(account, each)
        rejected.update(each.rejected)
        account.gaps += each.gaps
    account.evicted, account.rejected = _most(evicted), _most(rejected)
    key = (tenant_id, agent_id)
    account.as_of_unix_ms = facts.heard.get(key, 0)
    account.invalid_messages = dict(facts.invalid.get(key, {}))
    account.rows = facts.rows.get(key)
    return account


def _most(reasons: Counter[str]) -> dict[str, int]:
    """The commonest reasons and the sum of the others, for who sends events chooses them."""
    ranked = sorted(reasons, key=lambda why: (why != "overlap", -reasons[why], why))
    found = {why: reasons[why] for why in ranked[:REASONS_MAX] if why != OTHER_REASONS}
    if others := reasons.total() - sum(found.values()):
        found[OTHER_REASONS] = others
    return found


def _add_kernel(account: Account, epochs: Sequence[EpochFacts]) -> None:
    """The probes outlive a crash of the agent: their counters belong to a load, not to an epoch."""
    loads: dict[str, list[EpochFacts]] = {}
    for each in epochs:
        if each.batches and each.epoch:
            loads.setdefault(each.counters.load_id, []).append(each)
    for index, lives in enumerate(loads.values()):
        begin, end = _kernel(lives[0].counters_before), _kernel(lives[-1].counters)
        for name in _KERNEL:
            setattr(account, name, getattr(account, name) + end[name] - begin[name])
        read = sum(_grown(each, "read") for each in lives)
        unread = end["delivered"] - begin["delivered"] - read
        if index == len(loads) - 1:
            account.in_rings += unread
        else:
            account.abandoned += unread


def _kernel(counters: Counters | None) -> Mapping[str, int]:
    probes = counters.probes.values() if counters is not None else ()
    return {name: sum(getattr(each, name) for each in probes) for name in _KERNEL}


def _grown(epoch: EpochFacts, name: str) -> int:
    before = getattr(epoch.counters_before, name) if epoch.counters_before is not None else 0
    return int(getattr(epoch.counters, name) - before)


def _add_agent(account: Account, epoch: EpochFacts) -> None:
    account.alerts_stored += epoch.alerts_stored
    if not epoch.batches or not epoch.epoch:
        return
    account.read += _grown(epoch, "read")
    account.seeds += _grown(epoch, "seeds")
    account.unpublished += _grown(epoch, "unpublished")
    account.dropped += _grown(epoch, "dropped")
    account.spooled += _grown(epoch, "spooled")
    account.alerts_raised += _grown(epoch, "alerts")
    account.alerts_dropped += _grown(epoch, "alerts_dropped")


def _add_arrivals(account: Account, epoch: EpochFacts) -> Counter[str]:
    """What became of the spooled; returns the evicted by reason."""
    account.accepted += epoch.accepted
    account.stored += epoch.stored
    if not epoch.epoch:
        return Counter()
    begin = epoch.counters_before.spooled if epoch.counters_before is not None else 0
    # What was evicted behind the last batch that came was spooled too.
    end = max([epoch.next_seq, *(last + 1 for _, last, _ in epoch.evicted)])
    account.spooled += end - epoch.next_seq
    account.read += end - epoch.next_seq
    holes = [*epoch.missing, (epoch.next_seq, end - 1)]
    if epoch.batches:
        holes.append((begin, epoch.first_seq - 1))
    missing = sum(last - first + 1 for first, last in holes if last >= first)
    missing += epoch.missing_events - sum(last - first + 1 for first, last in epoch.missing)
    # Runs say where events were given up, and may reach over some that had been sent.
    evicted: Counter[str] = Counter()
    for first, last, reason in epoch.evicted:
        count, holes = _taken_out(holes, first, last)
        evicted[reason] += count
    account.outside += epoch.outside_events
    account.missing += missing - evicted.total()
    return +evicted


def _taken_out(
    holes: Iterable[tuple[int, int]], first: int, last: int
) -> tuple[int, list[tuple[int, int]]]:
    """How many numbers from ``first`` to ``last`` lie in the holes, and the holes without them."""
    count, left = 0, []
    for begin, end in holes:
        low, high = max(begin, first), min(end, last)
        if low > high:
            left.append((begin, end))
            continue
        count += high - low + 1
        left += [each for each in ((begin, low - 1), (high + 1, end)) if each[0] <= each[1]]
    return count, left
