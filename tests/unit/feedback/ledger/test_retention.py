"""Retention: what nobody voted on goes, what teaches stays."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from feedback.ledger.retention import RetentionLimits, Schedule
from feedback.ledger.store import Ledger
from feedback.log.event_log import LogUnavailable, RecordKey, Topic
from feedback.log.sqlite_log import SqliteLog
from tests.support.feedback_samples import comparison, completion, put, rating, retraction

DAY_MS = 86_400_000
MONTH = RetentionLimits(age_ms=31 * DAY_MS, size=0)


def in_days(days: float) -> int:
    return int(time.time() * 1000) + int(days * DAY_MS)


def completions_of(log: SqliteLog) -> list[str]:
    return [record.key for record in log.read("completions", {})]


def test_old_answers_go_unless_feedback_refers_to_them(log: SqliteLog, ledger: Ledger) -> None:
    put(log, *(completion(f"c{n}") for n in range(1, 7)))
    put(log, rating("e1", completion_id="c2"), comparison("e2", ("c3", 0), ("c4", 1)))
    put(log, rating("e3", completion_id="c5"), retraction("r", "e3"))
    ledger.follow(log)
    before = ledger.effective_events()
    assert ledger.expire(log, MONTH, in_days(30)) == 0
    assert ledger.expire(log, MONTH, in_days(32)) == 2
    assert completions_of(log) == ["c2", "c3", "c4", "c5"]
    assert ledger.counts().completions == 4
    assert ledger.effective_events() == before
    assert ledger.effective_events(upto_seq=3), "snapshots from before the retraction stay whole"
    assert ledger.expire(log, MONTH, in_days(32)) == 0


def test_an_answer_that_a_waiting_vote_needs_stays(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion("c1"), comparison("e1", ("c1", 0), ("late", 0)))
    ledger.follow(log)
    assert ledger.expire(log, MONTH, in_days(40)) == 0
    put(log, completion("late"))
    ledger.follow(log)
    assert [joined.event.event_id for joined in ledger.effective_events()] == ["e1"]


def test_above_the_size_the_oldest_go_but_none_of_the_last_hour(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, *(completion(f"c{n}", question=f"{n}" * 100_000) for n in range(10)))
    put(log, rating("e1", completion_id="c0"))
    ledger.follow(log)
    limits = RetentionLimits(age_ms=0, size=600_000)
    assert ledger.expire(log, limits, in_days(0)) == 0
    assert ledger.expire(log, limits, in_days(1)) in (5, 6)
    left = completions_of(log)
    assert left[0] == "c0"
    assert left[1:] == [f"c{n}" for n in range(10 - len(left) + 1, 10)]
    assert ledger.used_bytes() < 700_000


def test_a_new_ledger_of_the_same_log_has_the_same_votes(
    log: SqliteLog, ledger: Ledger, tmp_path: Path
) -> None:
    put(log, *(completion(f"c{n}") for n in range(5)), rating("e1", completion_id="c3"))
    ledger.follow(log)
    ledger.expire(log, MONTH, in_days(40))
    again = Ledger(tmp_path / "again.db")
    again.follow(log)
    assert again.effective_events() == ledger.effective_events()
    again.close()


def test_space_of_deleted_answers_is_used_again(log: SqliteLog, ledger: Ledger) -> None:
    def chat(first: int) -> None:
        put(log, *(completion(f"c{first + n}", question="x" * 100_000) for n in range(10)))
        ledger.follow(log)

    chat(0)
    sizes = []
    for turn in range(1, 6):
        ledger.expire(log, MONTH, in_days(40))
        chat(10 * turn)
        files = (f for path in (log.path, ledger.path) for f in path.parent.glob(f"{path.name}*"))
        sizes.append(sum({file: file.stat().st_size for file in files}.values()))
    assert max(sizes) < 1.5 * sizes[1]


def test_a_log_that_is_away_loses_nothing_of_the_ledger(
    log: SqliteLog, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(log, completion("c1"))
    ledger.follow(log)

    def fail(topic: Topic, keys: list[RecordKey]) -> None:
        raise LogUnavailable("away")

    monkeypatch.setattr(log, "expire", fail)
    with pytest.raises(LogUnavailable):
        ledger.expire(log, MONTH, in_days(40))
    assert ledger.counts().completions == 1


def test_a_ledger_of_an_earlier_release_knows_what_its_votes_need(
    log: SqliteLog, tmp_path: Path
) -> None:
    path = tmp_path / "old.db"
    put(log, completion("c1", created_ms=5), completion("c2", created_ms=5))
    put(log, rating("e1", completion_id="c2"))
    ledger = Ledger(path)
    ledger.follow(log)
    ledger.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE events DROP COLUMN completions")
        db.execute("ALTER TABLE completions DROP COLUMN created_ms")
        db.execute("PRAGMA user_version=0")
        db.commit()
    ledger = Ledger(path)
    assert ledger.expire(log, MONTH, in_days(0)) == 1
    assert completions_of(log) == ["c2"]
    assert len(ledger.effective_events()) == 1
    ledger.close()


def test_retention_is_due_at_once_and_after_each_interval() -> None:
    now = [0.0]
    schedule = Schedule(10, lambda: now[0])
    assert [schedule.due(), schedule.due()] == [True, False]
    now[0] = 10
    assert [schedule.due(), schedule.due()] == [True, False]
