"""Tables that are bounded fairly: when one is full, those who have most in it give up something.

Every entry has an owner, a user and a lineage. Room is made by cutting the users with most to one
level, and in each of them the lineages with most; of a lineage the least recently used goes first.
So an owner with little loses nothing while another has more, whatever that other one does.

A quarter is freed at once, so that going through the whole table is paid for by many additions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from actors.detection.events import Identity

_FREED = 4
"""The part of a table that is freed when it is full."""

Owner: TypeAlias = tuple[int, Identity]
"""(user, root of the lineage)."""


class Owned(Protocol):
    """What a table holds."""

    owner: Owner

    @property
    def weight(self) -> int:
        """How much room it takes."""


K = TypeVar("K")
V = TypeVar("V", bound=Owned)


def to_free(held: int, most: int) -> int:
    """Return how much a table that holds this much gives up; 0 if it may hold it."""
    return held - most + most // _FREED if held > most else 0


def shares(sizes: Mapping[Owner, int], need: int) -> dict[Owner, int]:
    """Return how much each owner gives up so that ``need`` becomes free."""
    users: dict[int, dict[Owner, int]] = {}
    for owner, size in sizes.items():
        users.setdefault(owner[0], {})[owner] = size
    given: dict[Owner, int] = {}
    for uid, excess in _level({uid: sum(each.values()) for uid, each in users.items()}, need):
        given.update(_level(users[uid], excess))
    return given


def _level(sizes: Mapping[Any, int], need: int) -> list[tuple[Any, int]]:
    """Cut the greatest to one level until ``need`` is freed; who gives up how much."""
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    total, number = 0, 0
    for number, (_, size) in enumerate(ordered, 1):
        total += size
        below = ordered[number][1] if number < len(ordered) else 0
        if total - number * below >= need:
            break
    if not number:
        return []
    level, more = divmod(max(0, total - need), number)
    return [
        (who, size - level - (place < more))
        for place, (who, size) in enumerate(ordered[:number])
        if size > level + (place < more)
    ]


class FairTable(Generic[K, V]):
    """Entries by key, the least recently used first.

    Args:
        most: how much all of them may weigh.
    """

    def __init__(self, most: int) -> None:
        self.entries: OrderedDict[K, V] = OrderedDict()
        self.most = most
        self._weight = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def weight(self) -> int:
        """Of all of them."""
        return self._weight

    def put(self, key: K, value: V, *, before: int = 0) -> None:
        """Have an entry as the one used last.

        Args:
            key: Its key.
            value: The entry.
            before: What it weighed when it was put here before; 0 if it was not.
        """
        self.entries[key] = value
        self.entries.move_to_end(key)
        self._weight += value.weight - before

    def pop(self, key: K) -> V | None:
        """Remove an entry, if it is there."""
        value = self.entries.pop(key, None)
        if value is not None:
            self._weight -= value.weight
        return value

    def make_room(self, *, is_spent: Callable[[K], bool] | None = None) -> list[tuple[K, V]]:
        """Hold no more than is allowed; what had to go for it.

        Args:
            is_spent: Whether an entry is of no more use; those go first, and are not returned.
        """
        need = to_free(self._weight, self.most)
        if not need:
            return []
        if is_spent is not None:
            before = self._weight
            for key in [key for key in self.entries if is_spent(key)]:
                self.pop(key)
            need -= before - self._weight
            if need <= 0:
                return []
        sizes: dict[Owner, int] = {}
        for value in self.entries.values():
            sizes[value.owner] = sizes.get(value.owner, 0) + value.weight
        left = shares(sizes, need)
        gone: list[tuple[K, V]] = []
        for key, value in self.entries.items():
            if left.get(value.owner, 0) > 0:
                left[value.owner] -= value.weight
                gone.append((key, value))
        for key, _ in gone:
            self.pop(key)
        return gone
