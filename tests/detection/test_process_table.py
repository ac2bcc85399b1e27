import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.detection.events import (
    AnyEvent,
    ConnectEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    Identity,
    OpenEvent,
    SeedEvent,
)
from actors.detection.lineages import MAX_DEPTH
from actors.detection.process_table import ProcessTable
from actors.detection.testing import TICK_NS

SECOND = 1_000_000_000


def seed(child: Identity, parent: Identity = (0, 0), *, exe: str = "/sbin/init") -> SeedEvent:
    name = exe.rpartition("/")[2]
    return SeedEvent(1, *child, *parent, 0, name, exe, bool(exe), ())


def fork(
    child: Identity, parent: Identity, *, time_ns: int = 0, comm: str = "", uid: int = 0
) -> ForkEvent:
    return ForkEvent(time_ns or child[1], *child, *parent, uid, comm)


def execute(
    who: Identity, exe: str, *, time_ns: int, parent: Identity = (0, 0), system: bool = True
) -> ExecEvent:
    comm = exe.rpartition("/")[2][:15]
    return ExecEvent(
        *(time_ns, *who, *parent, 0, 0, 0, comm, exe, exe, system, (exe,)),
        argv_cut=False,
        cwd="/",
        user="root",
        error=0,
    )


def leave(who: Identity, *, time_ns: int) -> ExitEvent:
    return ExitEvent(time_ns, *who, exit_code=0, signal=0)


def read(who: Identity, *, time_ns: int, comm: str = "cat") -> OpenEvent:
    return OpenEvent(time_ns, *who, 0, comm, "/x", resolved=True, flags=0, error=0)


INIT, SSHD, BASH = (1, 0), (50, 100), (60, 200)


def small() -> ProcessTable:
    table = ProcessTable(max_processes=8, grace_secs=30)
    table.seed(seed(INIT))
    table.seed(seed(SSHD, INIT, exe="/usr/sbin/sshd"))
    return table


def name_of(table: ProcessTable, identity: Identity) -> str:
    process = table.get(identity)
    assert process is not None
    return process.program.name


def test_a_child_inherits_and_exec_replaces() -> None:
    table = small()
    table.fork(fork(BASH, SSHD, comm="sshd"))
    process = table.get(BASH)
    assert process is not None
    assert (process.program.exe, process.program.system_exe) == ("/usr/sbin/sshd", True)
    table.exec(execute(BASH, "/usr/bin/bash", time_ns=300, system=False))
    assert (process.program.exe, process.program.system_exe) == ("/usr/bin/bash", False)
    assert table.ancestry(BASH) == "init=>sshd=>bash"
    assert name_of(table, SSHD) == "sshd"


def test_lineage_survives_reparenting() -> None:
    table = small()
    table.fork(fork(BASH, SSHD))
    child = (70, 300)
    table.fork(fork(child, BASH))
    table.exit(leave(BASH, time_ns=400))
    table.exec(execute(child, "/usr/bin/curl", time_ns=500, parent=INIT))
    assert table.ancestry(child) == "init=>sshd=>sshd=>curl"


def test_a_reused_pid_is_another_process() -> None:
    table = small()
    table.fork(fork(BASH, SSHD))
    table.exec(execute(BASH, "/usr/bin/bash", time_ns=300))
    again = (BASH[0], 5000)
    table.fork(fork(again, INIT))
    old, new = table.get(BASH), table.current(BASH[0])
    assert old is not None
    assert new is not None
    assert (old.exit_ns, new.identity, new.program.name) == (5000, again, "init")
    assert table.statistics().superseded == 1
    table.exec(execute(BASH, "/usr/bin/late", time_ns=4000))
    assert new.program.name == "init"
    assert table.current(BASH[0]) is new


def test_an_old_holder_of_the_pid_met_late_is_over() -> None:
    table = small()
    table.fork(fork((60, 900), SSHD))
    late = table.meet(read(BASH, time_ns=800))
    assert not late.alive
    current = table.current(60)
    assert current is not None
    assert current.identity == (60, 900)


def test_a_parent_known_by_pid_only() -> None:
    table = small()
    table.fork(fork(BASH, (SSHD[0], 0)))
    assert table.ancestry(BASH) == "init=>sshd=>sshd"


def test_a_parent_that_ended_or_began_out_of_time_is_no_parent() -> None:
    table = small()
    table.fork(fork(BASH, SSHD))
    table.exit(leave(BASH, time_ns=400))
    table.fork(fork((70, 500), (BASH[0], 0)))
    assert table.ancestry((70, 500)) == "?"
    table.fork(fork((80, 150), (70, 0)))
    assert table.ancestry((80, 150)) == "?"
    table.fork(fork((90, 350), (BASH[0], 0)))
    assert table.ancestry((90, 350)) == "init=>sshd=>sshd=>sshd"


def test_a_name_from_an_event_is_never_trusted() -> None:
    table = small()
    for process in (
        table.meet(read((70, 300), time_ns=400, comm="sshd")),
        table.fork(fork((80, 500), (79, 400), comm="sshd")),
    ):
        assert (process.program.comm, process.program.exe) == ("sshd", "")
        assert not process.program.system_exe
    assert table.statistics().unannounced == 1


def test_events_in_any_order_tell_the_same() -> None:
    table = small()
    table.exit(leave(BASH, time_ns=400))
    table.exec(execute(BASH, "/usr/bin/bash", time_ns=300))
    table.fork(fork(BASH, SSHD))
    process = table.get(BASH)
    assert process is not None
    assert (process.alive, process.program.name, process.parent) == (False, "bash", SSHD)
    table.exec(execute(BASH, "/usr/bin/older", time_ns=250))
    assert process.program.name == "bash"


def test_a_late_fork_does_not_inherit_a_later_exec() -> None:
    table = small()
    dropper = (60, 200)
    table.fork(fork(dropper, INIT))
    table.exec(execute(dropper, "/usr/bin/sudo", time_ns=900))
    child = table.fork(fork((70, 300), dropper, time_ns=800, comm="dropper"))
    assert (child.program.exe, child.program.comm) == ("", "dropper")
    assert table.launched_by(execute((70, 300), "/bin/sh", time_ns=950))[0] is child.program


def test_the_launcher_of_an_unseen_process_is_its_parent_s_program() -> None:
    table = small()
    launcher, _ = table.launched_by(execute((70, 300), "/bin/sh", time_ns=400, parent=SSHD))
    assert launcher is not None
    assert launcher.exe == "/usr/sbin/sshd"
    assert table.launched_by(execute((70, 300), "/bin/sh", time_ns=400)) == (None, None)
    table.meet(read((70, 300), time_ns=350, comm="x"))
    launcher, _ = table.launched_by(execute((70, 300), "/bin/sh", time_ns=400))
    assert launcher is not None
    assert launcher.name == "x"


def test_a_late_exec_has_no_known_launcher() -> None:
    table = small()
    table.fork(fork(BASH, SSHD))
    table.exec(execute(BASH, "/usr/bin/bash", time_ns=300))
    assert table.launched_by(execute(BASH, "/bin/sh", time_ns=250)) == (None, None)


def test_a_seed_adds_to_what_is_known() -> None:
    table = small()
    table.meet(read(BASH, time_ns=400))
    table.seed(seed(BASH, SSHD, exe="/usr/bin/bash"))
    assert table.ancestry(BASH) == "init=>sshd=>bash"
    table.exec(execute(BASH, "/usr/bin/curl", time_ns=500))
    table.seed(seed(BASH, INIT, exe="/usr/bin/bash"))
    assert table.ancestry(BASH) == "init=>sshd=>curl"


def test_the_ended_are_kept_for_a_while() -> None:
    table = small()
    table.fork(fork(BASH, SSHD))
    table.exit(leave(BASH, time_ns=1 * SECOND))
    table.fork(fork((70, 31 * SECOND), SSHD))
    assert table.get(BASH) is not None
    table.fork(fork((80, 31 * SECOND + 1), SSHD))
    assert table.get(BASH) is None
    assert table.current(BASH[0]) is None
    assert table.statistics().expired == 1


def test_the_ended_are_kept_for_their_children() -> None:
    table = small()
    child = (70, 300)
    table.fork(fork(BASH, SSHD))
    table.fork(fork(child, BASH))
    table.exit(leave(BASH, time_ns=1 * SECOND))
    table.fork(fork((80, 100 * SECOND), SSHD))
    assert table.get(BASH) is not None
    assert table.statistics().exited == 1
    table.exit(leave(child, time_ns=100 * SECOND))
    table.fork(fork((90, 200 * SECOND), SSHD))
    assert table.get(child) is None
    assert table.get(BASH) is None
    assert table.statistics().expired == 2


def test_the_oldest_exit_goes_first_then_the_oldest_without_children() -> None:
    table = small()
    children = [(100 + number, 1000 + number) for number in range(6)]
    for child in children:
        table.fork(fork(child, SSHD))
    table.exit(leave(children[3], time_ns=2000))
    table.exit(leave(children[1], time_ns=2001))
    table.fork(fork((200, 3000), SSHD))
    assert table.get(children[3]) is table.get(children[1]) is None
    assert table.get(children[0]) is None
    assert all(table.get(each) for each in (children[2], children[4], children[5]))
    assert table.get(INIT) is not None
    statistics = table.statistics()
    assert (statistics.evicted_exited, statistics.evicted_alive) == (2, 1)


def test_the_processes_of_others_stay_while_one_user_floods() -> None:
    table = ProcessTable(max_processes=64)
    quiet = [(10 + number, 10 + number) for number in range(20)]
    for each in quiet:
        table.fork(fork(each, INIT, uid=0))
        table.exit(leave(each, time_ns=100))
    for number in range(5000):
        table.fork(fork((100 + number, 1000), (99 + number, 1000), uid=1000))
    assert all(table.get(each) is not None for each in quiet)


def test_the_root_of_a_lineage_outlives_all_that_is_between() -> None:
    table = ProcessTable(max_processes=32)
    table.fork(fork((50, 50), INIT))
    parent = (50, 50)
    for number in range(500):
        child = (100 + number, 100 + number)
        table.fork(fork(child, parent))
        table.exit(leave(parent, time_ns=100 + number))
        parent = child
    last = table.get(parent)
    assert last is not None
    assert last.root == (50, 50)


def test_a_flood_does_not_push_out_those_it_descends_from() -> None:
    table = small()
    for number in range(100):
        table.fork(fork((100 + number, 1000 + number), SSHD))
    assert table.ancestry((199, 1099)) == "init=>sshd=>sshd"


def test_a_chain_of_parents_is_evicted_from_its_oldest_end() -> None:
    table = ProcessTable(max_processes=64)
    for number in range(200):
        table.fork(fork((100 + number, 1000 + number), (99 + number, 999 + number)))
    assert len(table) <= 64
    assert table.get((299, 1199)) is not None


def test_ancestry_is_bounded_printable_and_unambiguous() -> None:
    table = ProcessTable()
    parent = INIT
    table.seed(seed(INIT))
    for number in range(100):
        child = (100 + number, number + 1)
        table.fork(fork(child, parent))
        table.exec(execute(child, f"/x/{number}=>\x1b\u202e", time_ns=number + 2))
        parent = child
    shown = table.ancestry(parent)
    assert shown.isprintable()
    assert len(shown.split("=>")) == MAX_DEPTH
    assert shown.endswith("99=\\x3e\\x1b\\u202e")
    assert table.ancestry((7, 7)) == ""


def test_a_parent_may_have_the_highest_pid_and_its_child_the_lowest() -> None:
    table = small()
    last, first, next_ = (32767, 300), (300, 300), (301, 300)
    table.fork(fork(last, SSHD))
    table.fork(fork(first, last))
    table.fork(fork(next_, first))
    assert table.ancestry(next_) == "init=>sshd=>sshd=>sshd=>sshd"


def test_nobody_is_its_own_ancestor() -> None:
    table = small()
    one, two, three = (70, 300), (71, 300), (72, 300)
    table.fork(fork(one, three))
    table.fork(fork(two, one))
    table.fork(fork(three, two))
    table.fork(fork((73, 300), (73, 300)))
    parents = [process.parent for process in table if process.identity[1] == 300]
    assert parents == [three, one, None, None]


def test_a_process_costs_little() -> None:
    count = 5000
    table = ProcessTable(max_processes=2 * count)
    tracemalloc.start()
    for number in range(count):
        child = (1000 + number, TICK_NS * (number + 1000))
        table.fork(fork(child, (1000 + number - 1, TICK_NS * (number + 999))))
        table.exec(execute(child, f"/usr/bin/program{number % 100}", time_ns=child[1] + 1))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / count < 600


# Random histories

pids = st.integers(1, 6)
starts = st.integers(0, 5).map(lambda tick: tick * TICK_NS)
identities = st.tuples(pids, starts)
maybe_parents = st.tuples(st.integers(0, 6), st.just(0) | starts)
times = st.integers(0, 200 * SECOND)


@st.composite
def events(draw: st.DrawFn) -> AnyEvent:
    who, time_ns = draw(identities), draw(times)
    exe = f"/bin/{who[0]}.{who[1]}"
    match draw(st.integers(0, 5)):
        case 0:
            return seed(who, draw(maybe_parents), exe=exe)
        case 1:
            return fork(who, draw(maybe_parents), time_ns=time_ns)
        case 2:
            return execute(who, exe, time_ns=time_ns, parent=draw(maybe_parents))
        case 3:
            return leave(who, time_ns=time_ns)
        case _:
            return read(who, time_ns=time_ns, comm="")


def apply(table: ProcessTable, event: AnyEvent) -> None:
    match event:
        case SeedEvent():
            table.seed(event)
        case ForkEvent():
            table.fork(event)
        case ExecEvent():
            table.launched_by(event)
            table.exec(event)
        case ExitEvent():
            table.exit(event)
        case OpenEvent() | ConnectEvent():
            table.meet(event)


def check(table: ProcessTable, bound: int) -> None:
    """Everything that must hold after every event."""
    assert len(table) <= bound
    alive_by_pid: dict[int, Identity] = {}
    children: dict[Identity, int] = {}
    for process in table:
        pid, start_ns = process.identity
        if process.alive:
            assert table.current(pid) is process, "whoever is alive holds its pid"
            assert alive_by_pid.setdefault(pid, process.identity) == process.identity
        if process.parent is not None:
            assert process.parent[1] <= start_ns
            children[process.parent] = children.get(process.parent, 0) + 1
        lineage = [process]
        while (parent := table.parent(lineage[-1])) is not None:
            lineage.append(parent)
        assert len({each.identity for each in lineage}) == len(lineage)
        assert table.ancestors(process, depth=1000) == lineage[1 : MAX_DEPTH + 1]
        assert table.ancestors(process, depth=2) == lineage[1:3]
        names = [each.program.shown for each in lineage[:MAX_DEPTH]]
        assert table.ancestry(process.identity) == "=>".join(reversed(names))
        # Names say which process exec'd or was seeded with them: its own, or an ancestor's that
        # was inherited. An inherited name may outlive the ancestor's entry, never precede it.
        if process.exec_ns:
            assert process.program.exe == f"/bin/{pid}.{start_ns}"
        elif process.program.exe:
            _, own_start = map(int, process.program.exe[5:].split("."))
            assert own_start <= start_ns
    assert table._children == children
    ended = {process.identity for process in table if not process.alive}
    exited = list(table._exited)
    assert len(exited) + len(table._kept_for_children) == len(ended)
    assert {*exited, *table._kept_for_children} == ended
    assert len(table._by_pid) <= len(table)


@settings(max_examples=300, deadline=None)
@given(st.lists(events(), max_size=60), st.integers(2, 12))
def test_whatever_happens_the_table_stays_sound(history: list[AnyEvent], bound: int) -> None:
    table = ProcessTable(max_processes=bound, grace_secs=30)
    for event in history:
        apply(table, event)
        check(table, bound)


@given(st.lists(events(), max_size=60))
def test_identical_histories_give_identical_tables(history: list[AnyEvent]) -> None:
    tables = [ProcessTable(max_processes=8) for _ in range(2)]
    for table in tables:
        for event in history:
            apply(table, event)
    first, second = ([(p.identity, p.parent, p.program.key) for p in t] for t in tables)
    assert first == second


@given(st.lists(st.tuples(pids, st.integers(0, 3)), min_size=1, max_size=60))
def test_true_histories_are_never_misattributed(steps: list[tuple[int, int]]) -> None:
    """A model kernel forks, execs, exits and reuses pids; the table knows each program."""
    table = ProcessTable(max_processes=1000)
    table.seed(seed(INIT, exe="/bin/init"))
    programs: dict[Identity, str] = {INIT: "/bin/init"}
    parents: dict[Identity, Identity] = {}
    running: dict[int, Identity] = {1: INIT}
    for number, (pid, action) in enumerate(steps):
        now = (number + 1) * TICK_NS
        if pid not in running:
            parent = list(running.values())[number % len(running)]
            child = (pid, now)
            parents[child], programs[child], running[pid] = parent, programs[parent], child
            parent_start = parent[1] if action % 2 else 0
            table.fork(fork(child, (parent[0], parent_start), time_ns=now))
        elif action == 0 and pid != 1:
            table.exit(leave(running.pop(pid), time_ns=now))
        else:
            programs[running[pid]] = f"/bin/{number}"
            table.exec(execute(running[pid], f"/bin/{number}", time_ns=now, parent=INIT))
        for identity, exe in programs.items():
            process = table.get(identity)
            assert process is not None
            assert (process.program.exe, process.parent) == (exe, parents.get(identity))
            assert process.alive is (running.get(identity[0]) == identity)
