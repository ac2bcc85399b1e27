"""A fair table against a model of it: whatever is put, used again and taken out, in any order."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.detection.fair import FairTable, Owner

HEAVIEST = 4
OWNERS = st.tuples(st.integers(0, 3), st.tuples(st.integers(1, 3), st.just(1)))
KEYS = st.integers(0, 40)


class Entry(msgspec.Struct):
    owner: Owner
    weight: int


class Machine(RuleBasedStateMachine):
    """The model is a list of (key, owner, weight), the one used longest ago first."""

    @initialize(most=st.integers(HEAVIEST, 48))
    def begin(self, most: int) -> None:
        self.most = most
        self.table: FairTable[int, Entry] = FairTable(most)
        self.model: list[tuple[int, Owner, int]] = []
        self.spent: set[int] = set()

    @rule(key=KEYS, owner=OWNERS, weight=st.integers(1, HEAVIEST))
    def put(self, key: int, owner: Owner, weight: int) -> None:
        self.table.pop(key)
        self.table.put(key, Entry(owner, weight))
        self.spent.discard(key)
        self.model = [each for each in self.model if each[0] != key] + [(key, owner, weight)]
        self._make_room()

    @rule(key=KEYS)
    def take_out(self, key: int) -> None:
        found = self.table.pop(key)
        assert (found is not None) is any(each[0] == key for each in self.model)
        self.model = [each for each in self.model if each[0] != key]

    @rule(key=KEYS)
    def spend(self, key: int) -> None:
        self.spent.add(key)

    def _make_room(self) -> None:
        before = self.model
        gone = self.table.make_room(is_spent=self.spent.__contains__)
        keys = {key for key, _ in gone}
        if sum(weight for *_, weight in before) <= self.most:
            assert not gone
            return
        assert not keys & self.spent, "what is spent is not told"
        useful = [each for each in before if each[0] not in self.spent]
        self.model = [each for each in useful if each[0] not in keys]
        _check_fair([(owner[0], key in keys, weight) for key, owner, weight in useful], parts=3)
        for uid in {owner[0] for _, owner, _ in useful}:
            mine = [each for each in useful if each[1][0] == uid]
            _check_fair([(owner[1][0], key in keys, weight) for key, owner, weight in mine])
        for owner in {each[1] for each in useful}:
            lost = [each[0] in keys for each in useful if each[1] == owner]
            assert lost == sorted(lost, reverse=True), "what was used longest ago goes first"

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert list(self.table.entries) == [key for key, *_ in self.model]
        assert self.table.weight == sum(weight for *_, weight in self.model) <= self.most


def _check_fair(entries: list[tuple[int, bool, int]], *, parts: int = 1) -> None:
    """Nobody loses anything while another has more than is left to them: who, lost, weight.

    But for what is more than their share of the last entry that goes, of each of their parts.
    """
    left: Counter[int] = Counter()
    for who, lost, weight in entries:
        left[who] += 0 if lost else weight
    for loser in {who for who, lost, _ in entries if lost}:
        assert all(has <= left[loser] + parts * HEAVIEST for has in left.values())


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, phases=(Phase.reuse, Phase.generate)
)
