"""The SQLite log beyond the contract: several processes, kills, full disks, locks."""

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from feedback.log import sqlite_log
from feedback.log.event_log import LogUnavailable, NewRecord, RecordKey
from feedback.log.sqlite_log import SqliteLog

WRITER = """
    import sys, threading
    from pathlib import Path
    from feedback.log.event_log import NewRecord
    from feedback.log.sqlite_log import SqliteLog
    log = SqliteLog(Path(sys.argv[1]))
    output_lock = threading.Lock()
    def write(thread):
        for i in range(10_000):
            keys = [f"{sys.argv[2]}-{thread}-{i}-{part}" for part in range(2)]
            log.append("feedback", [NewRecord(k, "t", k.encode() * 20) for k in keys])
            with output_lock:
                print(*keys, flush=True)
    for t in range(4):
        threading.Thread(target=write, args=(t,)).start()
"""
FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from feedback.log.event_log import LogUnavailable, NewRecord, RecordKey
    from feedback.log.sqlite_log import SqliteLog
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = SqliteLog(Path(sys.argv[1]))
    log.append("feedback", [NewRecord("before", "t", b"v")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        log.append("feedback", [NewRecord("lost", "t", bytes(1_000_000))])
    except LogUnavailable as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.append("feedback", [NewRecord("after", "t", b"v")])
    print([r.key for r in log.read("feedback", {})])
"""


def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
    code = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.Popen(code, stdout=subprocess.PIPE, text=True)


def test_every_acknowledged_record_survives_sigkill_exactly_once(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    SqliteLog(path).close()
    writers = [start(WRITER, str(path), name) for name in "abc"]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()  # wait until it writes
    time.sleep(0.5)
    acknowledged: list[str] = []
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        lines = writer.communicate()[0].splitlines()
        acknowledged += [key for line in lines if len(line.split()) == 2 for key in line.split()]
    log = SqliteLog(path)
    stored = [r for batch in batches(log) for r in batch]
    log.close()
    counts = Counter(record.key for record in stored)
    assert len(acknowledged) > 100
    assert {key for key in acknowledged if counts[key] != 1} == set()
    assert max(counts.values()) == 1
    assert all(record.value == record.key.encode() * 20 for record in stored)
    calls = Counter(record.key.rsplit("-", 1)[0] for record in stored)
    assert set(calls.values()) == {2}, "a call was written only in part"
    check = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()
    assert check == ("ok",)


def batches(log: SqliteLog) -> list[list]:  # type: ignore[type-arg]
    position, found = 0, []
    while batch := log.read("feedback", {0: position}):
        found.append(batch)
        position = batch[-1].offset + 1
    return found


def test_a_full_disk_is_unavailable_and_the_log_recovers(tmp_path: Path) -> None:
    process = start(FULL_DISK, str(tmp_path / "log.db"))
    output = process.communicate(timeout=60)[0].splitlines()
    assert "cannot write the log" in output[0]
    assert output[1] == "['before', 'after']"


def test_a_file_that_stays_locked_is_unavailable(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", busy_seconds=0.1)
    other = sqlite3.connect(log.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailable, match="locked"):
        log.append("feedback", [NewRecord("a", "t", b"")])
    assert log.read("feedback", {}) == [], "reading needs no lock"
    other.execute("ROLLBACK")
    other.close()
    log.append("feedback", [NewRecord("b", "t", b"")])
    assert [r.key for r in log.read("feedback", {})] == ["b"]
    log.close()


def test_an_append_gives_up_waiting_and_is_never_written_later(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", busy_seconds=5, append_seconds=0.2)
    other = sqlite3.connect(log.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    failures: list[LogUnavailable] = []

    def append(key: str) -> None:
        try:
            log.append("feedback", [NewRecord(key, "t", b"")])
        except LogUnavailable as error:
            failures.append(error)

    first = threading.Thread(target=append, args=("taken by the writer",))
    first.start()
    time.sleep(0.05)
    append("still queued")
    first.join()
    other.execute("ROLLBACK")
    other.close()
    log.close()
    assert len(failures) == 2
    reopened = SqliteLog(log.path)
    assert [r.key for r in reopened.read("feedback", {})] in ([], ["taken by the writer"])
    reopened.close()


def test_appends_fail_while_another_process_keeps_the_lock(
    tmp_path: Path,
) -> None:
    log = SqliteLog(tmp_path / "log.db", append_seconds=0.1)
    with (tmp_path / "log.db.lock").open("ab") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        with pytest.raises(LogUnavailable, match="did not commit within"):
            log.append("feedback", [NewRecord("late", "t", b"")])
        with pytest.raises(LogUnavailable, match="another process holds the lock"):
            SqliteLog(log.path, busy_seconds=0.05)
        assert log.read("feedback", {}) == []
    log.append("feedback", [NewRecord("next", "t", b"")])
    assert [r.key for r in log.read("feedback", {})] == ["late", "next"]
    log.close()


def test_no_busy_process_starves(tmp_path: Path) -> None:
    """Without the lock file, one of three processes waited for seconds while others wrote."""
    writers = [start(WRITER, str(tmp_path / "log.db"), name) for name in "abc"]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    time.sleep(3)
    lines = []
    for writer in writers:
        writer.kill()
        lines.append(len(writer.communicate()[0].splitlines()))
    assert min(lines) * 10 > max(lines)


def test_concurrent_appends_share_commits(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    commits: list[str] = []
    other = sqlite3.connect(log.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # so that calls queue up behind the first
    threads = [
        threading.Thread(target=log.append, args=("feedback", [NewRecord(str(i), "t", b"")]))
        for i in range(32)
    ]
    taken = threading.Event()
    log._write.set_trace_callback(
        lambda sql: taken.set() if sql.startswith("BEGIN") else commits.append(sql)
    )
    threads[0].start()
    assert taken.wait(5)  # the writer has the first call alone, and waits for its lock
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 4
    while log._queue.qsize() < 31 and time.monotonic() < deadline:
        time.sleep(0.001)
    other.execute("ROLLBACK")
    other.close()
    for thread in threads:
        thread.join()
    assert commits.count("COMMIT") == 2
    assert log.ends("feedback") == {0: 32}
    log.close()


def test_records_that_cannot_be_stored_fail_only_their_own_call(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    other = sqlite3.connect(log.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    errors: list[Exception] = []

    def append(key: str) -> None:
        try:
            log.append("feedback", [NewRecord(f"{key}-whole", "t", b""), NewRecord(key, "t", b"")])
        except UnicodeEncodeError as error:
            errors.append(error)

    keys = ["first", "good", "bad \ud800", "fine"]
    threads = [threading.Thread(target=append, args=(key,)) for key in keys]
    taken = threading.Event()
    log._write.set_trace_callback(lambda sql: taken.set() if sql.startswith("BEGIN") else None)
    deadline = time.monotonic() + 4
    for number, thread in enumerate(threads):
        thread.start()
        assert taken.wait(5)  # the writer has the first call alone, and waits for its lock
        while log._queue.qsize() < number and time.monotonic() < deadline:
            time.sleep(0.001)
    other.execute("ROLLBACK")
    other.close()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    stored = {r.key for r in log.read("feedback", {})}
    assert stored == {"first", "first-whole", "good", "good-whole", "fine", "fine-whole"}
    log.close()


def test_processes_may_create_the_same_log_at_once(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from feedback.log.event_log import NewRecord
        from feedback.log.sqlite_log import SqliteLog
        log = SqliteLog(Path(sys.argv[1]))
        log.append("feedback", [NewRecord("k", "t", b"")])
        log.close()
    """
    processes = [start(program, str(tmp_path / "new" / "log.db")) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    log = SqliteLog(tmp_path / "new" / "log.db")
    assert log.ends("feedback") == {0: 4}
    log.close()


def test_a_file_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(LogUnavailable, match="not a database"):
        SqliteLog(tmp_path / "log.db")


def test_an_unknown_topic_is_a_value_error(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    with pytest.raises(ValueError, match="unknown topic 'votes'"):
        log.append("votes", [])  # type: ignore[arg-type]
    log.close()


def test_commits_reach_the_disk(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    assert log._write.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert log._write.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    log.close()


def test_append_seconds_are_observed(tmp_path: Path) -> None:
    name, labels = "plaudit_log_append_seconds_count", {"topic": "policies"}
    before = REGISTRY.get_sample_value(name, labels) or 0
    log = SqliteLog(tmp_path / "log.db")
    log.append("policies", [NewRecord("k", "t", b"")])
    log.close()
    assert REGISTRY.get_sample_value(name, labels) == before + 1


def bytes_of(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.glob(f"{path.name}*"))


def test_no_byte_of_erased_records_is_left_in_the_files(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    other = SqliteLog(tmp_path / "log.db")  # another process's handle
    for i in range(300):
        value = (b"secret" if i % 3 else b"public") * (i * 7)
        log.append("completions", [NewRecord(f"k{i}", "t", value)])
    assert len(other.read("completions", {})) == 300
    assert b"secret" in bytes_of(log.path)
    log.erase("completions", [RecordKey(f"k{i}") for i in range(300) if i % 3])
    assert b"secret" not in bytes_of(log.path)
    kept = other.read("completions", {})
    assert [r.key for r in kept] == [f"k{i}" for i in range(0, 300, 3)]
    assert [r.offset for r in kept] == list(range(0, 300, 3)), "offsets stay as they were"
    other.append("completions", [NewRecord("next", "t", b"v")])
    assert log.read("completions", {})[-1].offset == 300
    log.close()
    other.close()


def test_bytes_left_by_a_crash_are_wiped_by_the_next_erasure(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path)
    log.append("feedback", [NewRecord(f"k{i}", "t", b"secret" * 99) for i in range(99)])
    log.delete_before("feedback", 98)  # as after a crash before wiping
    log.close()
    assert b"secret" in bytes_of(path)
    log = SqliteLog(path)
    log.erase("feedback", [RecordKey("k98")])
    assert b"secret" not in bytes_of(path)
    log.erase("feedback", [])
    log.close()


def test_a_reader_blocks_wiping_until_it_ends(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", busy_seconds=0.1)
    log.append("feedback", [NewRecord("k", "t", b"secret")])
    reader = sqlite3.connect(log.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM feedback").fetchall()
    with pytest.raises(LogUnavailable, match="another process blocks"):
        log.erase("feedback", [RecordKey("k")])
    assert log.read("feedback", {}) == []
    reader.execute("ROLLBACK")
    reader.close()
    log.erase("feedback", [RecordKey("k")])
    assert b"secret" not in bytes_of(log.path)
    log.close()


def test_a_read_ends_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_log, "_READ_BYTES", 25)
    log = SqliteLog(tmp_path / "log.db")
    log.append("feedback", [NewRecord(str(i), "t", bytes(10)) for i in range(5)])
    first = log.read("feedback", {})
    second = log.read("feedback", {0: first[-1].offset + 1})
    assert [[r.key for r in part] for part in (first, second)] == [["0", "1", "2"], ["3", "4"]]
    log.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_writer_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SqliteLog(tmp_path / "log.db", append_seconds=0.1)
    assert log.failure() is None
    monkeypatch.setattr(log, "_commit", lambda _: 1 / 0)
    with pytest.raises(LogUnavailable):
        log.append("feedback", [NewRecord("k", "t", b"v")])
    log._writer.join(10)
    assert log.failure() == f"the thread that writes the log {tmp_path / 'log.db'} has ended"
    log.close()
    assert log.failure() is None, "it was closed"
