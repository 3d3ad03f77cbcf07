"""The outbox keeps no byte of forwarded or erased records."""

import time
from pathlib import Path

from feedback.log.event_log import LogUnavailable, NewRecord, RecordKey
from feedback.log.outbox import OutboxLog
from feedback.log.sqlite_log import SqliteLog


def bytes_of(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.glob(f"{path.name}*"))


def test_an_idle_outbox_keeps_no_byte_of_forwarded_records(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    SqliteLog(path).append("completions", [NewRecord("before", "t", b"secret")])
    assert b"secret" in bytes_of(path)
    log = OutboxLog(SqliteLog(tmp_path / "log.db"), SqliteLog(path))
    log.append("completions", [NewRecord(f"k{i}", "t", b"secret" * i) for i in range(300)])
    assert log.wait_until_empty(10)
    deadline = time.monotonic() + 10
    while b"secret" in bytes_of(path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"secret" not in bytes_of(path)
    assert len(log.read("completions", {})) == 301
    log.close()


def test_erasing_reaches_outbox_and_log(tmp_path: Path) -> None:
    class Stuck(SqliteLog):
        """A log that accepts no completions."""

        def append(self, topic: str, records: object) -> None:
            time.sleep(0.01)
            raise LogUnavailable("unavailable")

    path = tmp_path / "outbox.db"
    inner = SqliteLog(tmp_path / "log.db")
    inner.append("completions", [NewRecord("k", "t", b"secret")])
    inner.close()
    log = OutboxLog(Stuck(tmp_path / "log.db"), SqliteLog(path))
    log.append("completions", [NewRecord("k", "t", b"secret"), NewRecord("j", "t", b"kept")])
    log.erase("completions", [RecordKey("k")])
    assert log.waiting() == 1
    assert log.read("completions", {}) == []
    for file in (path, tmp_path / "log.db"):
        assert b"secret" not in bytes_of(file)
    log.close()
