"""What an actor did and lost, as numbers people watch.

For every actor, at any moment::

    received = handled + poisoned + interrupted + dropped_oldest + undelivered + depth + in_hand

and ``received + dropped_newest + refused`` is what its senders told and asked it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStatistics:
    """Frozen counters of one actor since its topology started; restarts do not reset them."""

    #: Messages that entered the mailbox.
    received: int
    #: Messages handled to the end.
    handled: int
    #: Messages in hand when the actor crashed; each is lost.
    poisoned: int
    #: Messages in hand when the actor was cancelled: a sibling's restart, the drain deadline.
    interrupted: int
    #: Messages that found the mailbox full and did not enter (overflow `drop_newest`).
    dropped_newest: int
    #: Messages that left the mailbox unread to make room (overflow `drop_oldest`).
    dropped_oldest: int
    #: Messages that found the mailbox closed, because the actor has ended for good.
    refused: int
    #: Messages still in the mailbox when the actor ended for good.
    undelivered: int
    #: Items in all messages lost above, and in `unsent`: `len(message)` if it has one, else 1.
    items_dropped: int
    #: Messages told to out-edges, one per edge; asks are not among them.
    sent: int
    #: Deliveries cut short by cancellation at a full mailbox, one per edge that went without.
    unsent: int
    #: Messages told that no out-edge accepts.
    unrouted: int
    #: Times the actor ended in an error: in its factory, `start`, `run` or `stop`.
    crashes: int
    #: Times a fresh instance took over.
    restarts: int
    #: Messages waiting in the mailbox now.
    depth: int
    #: Messages being handled now, 0 or 1.
    in_hand: int
    #: Messages the mailbox can hold.
    capacity: int
    #: Tasks waiting now to put a message into the full mailbox (overflow `block`).
    senders_blocked: int
