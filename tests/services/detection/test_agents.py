from collections.abc import Mapping

from services.detection.agents import AgentCounts, Agents
from services.detection.memory_state import MemoryState
from services.detection.state import JOURNAL_MAX_BATCHES, Append, Drop, Kept, Replace, Unit, Written
from tests.services.detection.cast import POISON, Chain, batch_of, expected, make_chain
from tests.services.messages import HOST
from transport.messages import Counters, Host, ProbeCounts, encode
from transport.subjects import Address

UNIT = Unit("acme", "web-1", "boot")


def agents(*, max_agents: int = 10) -> Agents:
    return Agents(make_chain, max_agents=max_agents, counts=AgentCounts())


async def write(known: Agents, state: MemoryState, tokens: Mapping[int, int]) -> list[Written]:
    writes, found = known.writes(tokens), list[Written]()
    while writes:
        results = await state.save(writes)
        found += results
        writes = known.written(writes, results)
    return found


async def test_an_engine_is_the_same_after_any_number_of_owners() -> None:
    state, details = MemoryState(), []
    for turn in range(20):
        tokens = await state.take("me", [0], above=0)
        known = agents()
        (kept,) = await state.load([UNIT])
        known.restore(UNIT, HOST, kept, partition=0)
        for number in range(turn * 10, turn * 10 + 10):
            batch = batch_of(number)
            assert known.find(UNIT, batch) == "new"
            details += [each.detail for each in known.process(UNIT, batch, encode(batch))]
            assert known.find(UNIT, batch) == "repeat"
            if number % 3 == 0:
                await write(known, state, tokens)
        await write(known, state, tokens)
        known.forget(UNIT)
        assert UNIT not in known
    assert details == expected(range(200))
    (kept,) = await state.load([UNIT])
    assert kept is not None
    assert kept.snapshot is not None
    assert len(kept.journal) <= JOURNAL_MAX_BATCHES


async def test_what_the_state_lost_is_written_from_memory() -> None:
    known, state = agents(), MemoryState()
    tokens = await state.take("me", [0], above=0)
    known.restore(UNIT, HOST, None, partition=0)
    known.process(UNIT, batch_of(0), encode(batch_of(0)))
    await write(known, state, tokens)
    empty = MemoryState()
    known.process(UNIT, batch_of(1), encode(batch_of(1)))
    assert await write(known, empty, tokens) == [Written.MISSING, Written.DONE]
    assert known.writes(tokens) == []
    (kept,) = await empty.load([UNIT])
    assert kept is not None
    assert make_chain(Address("acme", "web-1"), HOST, kept.snapshot).count == 2


async def test_an_engine_of_a_lost_partition_is_let_go() -> None:
    known, state = agents(), MemoryState()
    old = await state.take("me", [0], above=0)
    known.restore(UNIT, HOST, None, partition=0)
    known.process(UNIT, batch_of(0), encode(batch_of(0)))
    await state.take("me", [0], above=0)
    assert await write(known, state, old) == [Written.FENCED]
    assert UNIT not in known


def test_a_broken_engine_leaves_no_snapshot() -> None:
    known = agents()
    known.restore(UNIT, HOST, None, partition=0)
    for number in range(JOURNAL_MAX_BATCHES + 5):
        known.process(UNIT, batch_of(number), b"x")
    (write,) = known.writes({0: 1})
    assert isinstance(write.change, Replace)
    bad = batch_of(999, counters=Counters(probes={POISON: ProbeCounts()}))
    try:
        known.process(UNIT, bad, encode(bad))
    except RuntimeError:
        (write,) = known.writes({0: 1})
        assert isinstance(write.change, Append)
        assert write.change.journal == (b"x",) * (JOURNAL_MAX_BATCHES + 5)


def test_a_snapshot_that_is_not_understood_is_a_new_engine_and_then_the_journal() -> None:
    made = list[bytes | None]()

    def make(address: Address, host: Host, snapshot: bytes | None) -> Chain:
        made.append(snapshot)
        return make_chain(address, host, snapshot)

    known = Agents(make, max_agents=10, counts=AgentCounts())
    kept = Kept(3, b"gibberish", (encode(batch_of(0)), b"{"), b"{}")
    known.restore(UNIT, HOST, kept, partition=0)
    assert made == [b"gibberish", None]
    (alert,) = known.process(UNIT, batch_of(1), b"x")
    assert alert.detail == expected([0, 1])[1]
    assert (known.counts.snapshots_not_understood, known.counts.journal_errors) == (1, 1)


def test_two_boots_of_an_agent_are_followed_and_the_third_drops_the_first() -> None:
    known = agents()
    units = [UNIT._replace(boot_id=boot) for boot in "abc"]
    for unit in units:
        known.restore(unit, HOST, None, partition=3)
    assert [unit in known for unit in units] == [False, True, True]
    (write,) = known.writes({3: 9})
    assert (write.unit, write.partition, write.token) == (units[0], 3, 9)
    assert isinstance(write.change, Drop)


def test_the_least_recently_used_goes_first() -> None:
    known = agents(max_agents=2)
    units = [UNIT._replace(agent_id=f"web-{number}") for number in range(3)]
    for unit in units:
        known.restore(unit, HOST, None, partition=0)
    known.process(units[0], batch_of(0), b"x")
    known.shrink()
    assert [unit in known for unit in units] == [True, False, True]
