"""Kills, full disks, damaged files: what was appended is there, or it is said that it is not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.transport.spool_cast import EPOCH, EVENTS, NOW, PER_APPEND, batch, ids, marks
from transport.messages import Evicted
from transport.spool import Spool
from transport.spool_errors import SpoolCorrupt, SpoolError, SpoolFull, SpoolInUse
from transport.spool_evictions import Loss
from transport.spool_folder import SET_ASIDE_MAX

ROOT = Path(__file__).resolve().parents[2]
CAST = (sys.executable, "-m", "tests.transport.spool_cast")
ITEMS = 30


def filled(folder: Path) -> bytes:
    """Make a spool with items and close it; the bytes of its file."""
    spool = Spool.open(folder)
    spool.append([batch(n) for n in range(ITEMS)], marks(ITEMS * EVENTS), now_unix_ms=NOW)
    spool.close()
    return (folder / "spool.db").read_bytes()


def test_a_killed_process_loses_nothing_it_was_told_is_safe(tmp_path: Path) -> None:
    chance = random.Random(3)
    appended = 0
    removing: set[int] = set()
    for _ in range(12):
        with subprocess.Popen(
            [*CAST, "append", tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline()]
            time.sleep(chance.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        for word, number in (line.split() for line in lines if line.endswith("\n")):
            if word == "appended":
                appended = int(number)
            else:
                removing.add(int(number))
        spool = Spool.open(tmp_path)
        found = spool.marks()
        assert spool.opened.how == "resumed"
        assert found is not None
        # The last append may have been safe before it could say so.
        assert found.next_batch in {appended, appended + PER_APPEND}
        appended = found.next_batch
        assert found == marks(appended * EVENTS)
        evicted = {
            seq // EVENTS
            for run in spool.unreported()
            for seq in range(run.first_seq, run.last_seq + 1)
        }
        there = {int(each.rpartition("-")[2]) for each in ids(spool)}
        assert evicted | there | removing == set(range(appended))
        assert not evicted & there
        spool.close()
    assert appended > 100
    assert removing


def test_a_full_disk_is_reported_and_survived(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=16m none {disk} && exec {' '.join(CAST)} fill {disk}"
    # A mount of its own, and where the tests do not run as root, a user of its own to be root.
    words = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    done = subprocess.run(
        [*words, "sh", "-c", mount], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sent, full, again, room = done.stdout.splitlines()
    assert sent == "sent on a full disk 160"
    assert "disk is full" in full
    assert "make room on its disk" in full
    assert again == "again 2"
    assert room.startswith("appended with room")


def test_what_a_full_disk_refused_to_remove_is_removed_later(tmp_path: Path) -> None:
    filled(tmp_path)
    spool = Spool.open(tmp_path)
    spool._db.execute(f"PRAGMA max_page_count={(tmp_path / 'spool.db').stat().st_size // 8192}")
    with pytest.raises(SpoolFull):
        spool.append([batch(99, size=10**6)], marks(10**6), now_unix_ms=NOW)
    spool.remove([each.id for each in spool.oldest(10, limit_bytes=10**6)])
    with pytest.raises(SpoolFull):
        spool.append([batch(99, size=10**6)], marks(10**6), now_unix_ms=NOW)
    assert len(ids(spool)) == ITEMS - 10
    assert spool.marks() == marks(ITEMS * EVENTS)
    spool._db.execute("PRAGMA max_page_count=1000000")
    spool.append([batch(99, size=10**6)], marks(10**6), now_unix_ms=NOW)
    assert len(ids(spool)) == ITEMS - 9
    assert spool.statistics(now_unix_ms=NOW).failed_appends == 2
    spool.close()


def test_one_process_has_it(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    with pytest.raises(SpoolInUse, match=f"in use by process {os.getpid()}; stop it"):
        Spool.open(tmp_path)
    spool.close()
    Spool.open(tmp_path).close()


def test_another_program_that_reads_it_is_named_as_the_reason(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM item").fetchone()
        with pytest.raises(SpoolInUse, match="close the program that has it open"):
            Spool.open(tmp_path)
    Spool.open(tmp_path).close()


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(SpoolError, match=r"belongs to user \d+, not to 4242; give it to 4242"):
        Spool.open(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    with pytest.raises(SpoolError, match="cannot use"):
        Spool.open(tmp_path / "spool")


def _garbage(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(50_000))


def _truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _folder(file: Path) -> None:
    file.unlink()
    (file / "deep").mkdir(parents=True)


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def _dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("/nonexistent/somewhere")


def _foreign(file: Path) -> None:
    file.unlink()
    _change(file, "CREATE TABLE item (id INTEGER PRIMARY KEY, payload BLOB)")


def _newer(file: Path) -> None:
    _change(file, "PRAGMA user_version=2")


def _no_table(file: Path) -> None:
    _change(file, "DROP TABLE item")


def _other_columns(file: Path) -> None:
    _change(file, "ALTER TABLE item DROP COLUMN subject")


def _bad_marks(file: Path) -> None:
    _change(file, "UPDATE state SET value = replace(value, 'exec', 'EXEC') WHERE name = 'marks'")


def _no_marks(file: Path) -> None:
    _change(file, "DELETE FROM state")


def _change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_garbage, "not a database"),
        (_truncated, "malformed"),
        (_folder, "not a file"),
        (_pipe, "not a file"),
        (_link, "not a file"),
        (_dangling, "not a file"),
        (_foreign, "another program"),
        (_newer, "version 2, this agent knows 1"),
        (_no_table, "tables"),
        (_other_columns, "tables"),
        (_bad_marks, "checksum"),
        (_no_marks, "no marks"),
    ],
)
def test_what_cannot_be_used_is_set_aside_and_replaced(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    filled(tmp_path)
    spoil(tmp_path / "spool.db")
    spool = Spool.open(tmp_path)
    assert spool.opened.how == "set_aside"
    assert reason in spool.opened.reason
    assert spool.opened.path == tmp_path / "spool.db.corrupt-1"
    assert os.path.lexists(spool.opened.path)
    assert ids(spool) == []
    spool.append([batch(0)], marks(10), now_unix_ms=NOW)
    spool.close()
    again = Spool.open(tmp_path)
    assert again.opened.how == "resumed"
    assert ids(again) == [f"{EPOCH}-0"]
    again.close()


def test_marks_are_carried_over_and_what_may_be_lost_is_told(tmp_path: Path) -> None:
    filled(tmp_path)
    _no_table(tmp_path / "spool.db")
    for _ in range(2):
        spool = Spool.open(tmp_path)
        assert spool.marks() == marks(ITEMS * EVENTS)
        assert spool.unreported() == [Evicted(EPOCH, 0, ITEMS * EVENTS - 1, "corrupt")]
        spool.close()


def test_few_damaged_files_are_kept(tmp_path: Path) -> None:
    for n in range(SET_ASIDE_MAX + 3):
        spool = Spool.open(tmp_path)
        spool.close()
        (_garbage if n != 1 else _folder)(tmp_path / "spool.db")
    Spool.open(tmp_path).close()
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"spool.db", "spool.lock", "spool.db.corrupt-4", "spool.db.corrupt-5"}


def test_a_damaged_row_is_evicted_and_told(tmp_path: Path) -> None:
    filled(tmp_path)
    file = tmp_path / "spool.db"
    _change(file, "UPDATE item SET payload = x'00' WHERE first_seq = 0")
    _change(file, "UPDATE item SET epoch = x'ff' WHERE first_seq = 10")
    _change(file, "UPDATE item SET payload = 5, subject = x'ff' WHERE first_seq = 20")
    spool = Spool.open(tmp_path)
    assert spool.opened.how == "resumed"
    assert ids(spool) == [f"{EPOCH}-{n}" for n in range(3, ITEMS)]
    assert spool.unreported() == [
        Evicted(EPOCH, 0, 9, "corrupt"),
        Evicted(EPOCH, 20, 29, "corrupt"),
    ]
    found = spool.statistics(now_unix_ms=NOW)
    assert found.batches == ITEMS - 3
    assert found.evicted == [
        Loss("telemetry", "corrupt", EPOCH, 2, 20),
        Loss("telemetry", "corrupt", "", 1, 0),
    ]
    spool.close()


def test_damage_found_while_it_runs_is_named_and_set_aside_by_the_next_opening(
    tmp_path: Path,
) -> None:
    filled(tmp_path)
    spool = Spool.open(tmp_path)
    spool._db.execute("PRAGMA shrink_memory")
    file = tmp_path / "spool.db"
    with file.open("r+b") as content:
        content.seek(8192)
        content.write(b"\xff" * (file.stat().st_size - 8192))
    with pytest.raises(SpoolCorrupt, match="opened anew, it is set aside"):
        spool.oldest(1, limit_bytes=1)
    with pytest.raises(SpoolCorrupt):
        spool.append([batch(99)], marks(1000), now_unix_ms=NOW)
    spool.close()
    again = Spool.open(tmp_path)
    assert again.opened.how == "set_aside"
    again.append([batch(99)], marks(1000), now_unix_ms=NOW)
    again.close()


@pytest.mark.parametrize("log_too", [False, True])
def test_flipped_bytes_never_come_out_and_never_stop_it(tmp_path: Path, *, log_too: bool) -> None:
    chance = random.Random(8)
    sound = tmp_path / "sound"
    filled(sound)
    sent = {batch(n).message_id: batch(n) for n in range(ITEMS)}
    for n in range(60):
        folder = tmp_path / str(n)
        shutil.copytree(sound, folder)
        if log_too:
            _leave_a_log(folder)
        for file in folder.glob("spool.db*"):
            _flip(file, chance)
        # Twice: what is found damaged while it runs is set aside by the next opening.
        for _ in range(2):
            spool = Spool.open(folder)
            try:
                for item in spool.oldest(100, limit_bytes=10**7):
                    assert item[1:8] == (*sent[item.message_id][:3], *sent[item.message_id][3:])
                spool.append([], marks(1000), now_unix_ms=NOW)
            except SpoolCorrupt:
                continue
            finally:
                spool.close()
        shutil.rmtree(folder)


def _leave_a_log(folder: Path) -> None:
    """Leave the write-ahead log behind, as a killed process does."""
    spool = Spool.open(folder)
    spool.append([], marks(ITEMS * EVENTS), now_unix_ms=NOW)
    copies = {each: each.read_bytes() for each in folder.glob("spool.db*")}
    spool.close()
    for file, content in copies.items():
        file.write_bytes(content)


def _flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice([1, 1, 3, 30])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
