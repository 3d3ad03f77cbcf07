"""The outbox keeps no byte of forwarded or erased records, and sets aside what is refused."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from feedback.log.event_log import LogUnavailable, NewRecord, RecordKey, RecordsRefused, Topic
from feedback.log.outbox import OutboxLog
from feedback.log.records import decode_dead_letter
from feedback.log.sqlite_log import SqliteLog
from feedback.metrics import OUTBOX_REFUSED


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


class Choosy(SqliteLog):
    """A log that refuses records of more than 100 bytes, as Kafka does."""

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        large = [r for r in records if len(r.value) > 100 and topic == "completions"]
        super().append(topic, [r for r in records if r not in large])
        if large:
            raise RecordsRefused({r.key: "it is too large" for r in large})


def test_a_record_that_the_log_refuses_becomes_a_dead_letter_and_nothing_waits_behind_it(
    tmp_path: Path,
) -> None:
    refused = OUTBOX_REFUSED._value.get()
    log = OutboxLog(Choosy(tmp_path / "log.db"), SqliteLog(tmp_path / "outbox.db"))
    records = [NewRecord("a", "t", b"1"), NewRecord("large", "t", bytes(101))]
    log.append("completions", [*records, NewRecord("b", "t", b"2")])
    log.append("completions", [NewRecord("c", "t", b"3")])
    assert log.wait_until_empty(10)
    assert [r.key for r in log.read("completions", {})] == ["a", "b", "c"]
    [letter] = map(decode_dead_letter, log.read("dead-letter", {}))
    assert (letter.topic, letter.key, letter.type) == ("completions", "large", "t")
    assert letter.reason == "it is too large (its 101 bytes are left out)"
    assert letter.value == b""
    assert OUTBOX_REFUSED._value.get() == refused + 1
    log.close()


def test_dead_letters_wait_in_the_outbox_while_the_log_is_away(tmp_path: Path) -> None:
    class Away(Choosy):
        """A log that takes no dead letters before `available` is set."""

        available = False

        def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
            if topic == "dead-letter" and not self.available:
                raise LogUnavailable("unavailable")
            super().append(topic, records)

    inner = Away(tmp_path / "log.db")
    log = OutboxLog(inner, SqliteLog(tmp_path / "outbox.db"))
    log.append("completions", [NewRecord("large", "t", bytes(101))])
    assert not log.wait_until_empty(0.5)
    inner.available = True
    assert log.wait_until_empty(10)
    assert len(log.read("dead-letter", {})) == 1
    log.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_drainer_is_a_failure(tmp_path: Path) -> None:
    class Broken(SqliteLog):
        """A log with a bug."""

        def append(self, topic: str, records: object) -> None:
            raise AssertionError("a bug")

    log = OutboxLog(Broken(tmp_path / "log.db"), SqliteLog(tmp_path / "outbox.db"))
    assert log.failure() is None
    log.append("completions", [NewRecord("k", "t", b"v")])
    log._drainer.join(10)
    assert (
        log.failure() == f"the thread that forwards the outbox {tmp_path / 'outbox.db'} has ended"
    )
    log.close()
    assert log.failure() is None, "it was stopped"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("part", ["log", "outbox"])
def test_a_dead_writer_of_either_file_is_a_failure(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, outbox = SqliteLog(tmp_path / "log.db"), SqliteLog(tmp_path / "outbox.db")
    dying = inner if part == "log" else outbox
    log = OutboxLog(inner, outbox)
    monkeypatch.setattr(dying, "_next_batch", lambda: 1 / 0)
    dying.erase("feedback", [])  # the last call that it does
    dying._writer.join(10)
    assert log.failure() == f"the thread that writes the log {dying.path} has ended"
    monkeypatch.undo()
    log.close()
