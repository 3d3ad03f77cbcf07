"""The view: what it returns, in which order, and that it can be rebuilt from the log."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from feedback.log.event_log import LogRecord, LogUnavailable, NewRecord, Positions, Topic
from feedback.log.records import FEEDBACK_TYPE, messages_hash
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.lineage import Coverage, LogPosition
from feedback.view.feedback_view import View, ViewError, ViewEvent
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Rating
from tests.support.feedback_samples import comment, comparison, completion, put, rating, retraction


def listed(view: View, owner: str = "local", **filters: object) -> list[tuple[str, bool]]:
    seen = view.events(owner, **filters)  # type: ignore[arg-type]
    return [(event.event.event_id, event.superseded) for event in seen]


def position_of(event_id: str, log: SqliteLog) -> LogPosition:
    """Return the position of an event in the log."""
    (found,) = [r for r in log.read("feedback", {}) if r.key == event_id]
    return LogPosition(found.partition, found.offset)


def test_an_event_is_read_back_once_followed(log: SqliteLog, view: View) -> None:
    vote = rating("e1")
    put(log, vote)
    assert view.event("e1") is None
    assert view.follow(log) == 1
    assert view.event("e1") == ViewEvent(
        vote, superseded=False, retracted=False, position=position_of("e1", log), ended=None
    )
    assert view.event("e2") is None
    assert view.follow(log) == 0


def test_superseded_votes_stay_and_are_marked(log: SqliteLog, view: View) -> None:
    put(log, rating("up"), rating("down", value=Rating.VALUE_DOWN), rating("other", 1))
    put(log, comparison("c"), comparison("turned", ("c1", 1), ("c1", 0)), rating("s", subject="s"))
    view.follow(log)
    assert listed(view) == [
        ("up", True),
        ("down", False),
        ("other", False),
        ("c", True),
        ("turned", False),
        ("s", False),
    ]


def test_retracted_events_are_marked_and_not_listed(log: SqliteLog, view: View) -> None:
    put(log, rating("e1"), rating("e2", 1), retraction("r", "e1"))
    put(log, retraction("theft", "e2", owner="somebody else"))
    view.follow(log)
    assert listed(view) == [("e2", False)]
    seen = view.event("e1")
    assert seen is not None
    assert seen.retracted
    assert view.event("r") is None, "a retraction is not feedback"


def test_retracting_the_latest_vote_does_not_restore_the_one_before(
    log: SqliteLog, view: View
) -> None:
    put(log, rating("up"), rating("down", value=Rating.VALUE_DOWN), retraction("r", "down"))
    view.follow(log)
    assert listed(view) == [("up", True)]


def test_events_are_listed_by_owner_completion_and_page(log: SqliteLog, view: View) -> None:
    for i in range(5):
        put(log, rating(f"a{i}", i, completion_id="a"), rating(f"b{i}", i, completion_id="b"))
    put(log, rating("foreign", completion_id="a", owner="o"))
    view.follow(log)
    assert [i for i, _ in listed(view, completion_id="a")] == ["a0", "a1", "a2", "a3", "a4"]
    assert [i for i, _ in listed(view, limit=3)] == ["a0", "b0", "a1"]
    assert [i for i, _ in listed(view, after="a1", limit=2)] == ["b1", "a2"]
    assert [i for i, _ in listed(view, completion_id="b", after="a3")] == ["b3", "b4"]
    assert listed(view, owner="o") == [("foreign", False)]
    for owner, after in [("local", "nothing"), ("local", "foreign")]:
        with pytest.raises(LookupError):
            view.events(owner, after=after)


def test_a_page_may_start_after_a_retracted_event(log: SqliteLog, view: View) -> None:
    put(log, rating("e0", 0), rating("e1", 1), retraction("r", "e0"))
    view.follow(log)
    assert listed(view, after="e0") == [("e1", False)]


def test_unusable_records_are_skipped(log: SqliteLog, view: View) -> None:
    log.append("feedback", [NewRecord("k", FEEDBACK_TYPE, b"\xff"), NewRecord("k", "x", b"")])
    log.append("completions", [NewRecord("k", "x", b"\xff")])
    put(log, FeedbackEvent(event_id="unset", owner="local"), rating("e1"))
    assert view.follow(log) == 5
    assert listed(view) == [("e1", False)]
    assert view.event("unset") is None


def test_the_first_event_of_an_id_is_kept(log: SqliteLog, view: View) -> None:
    put(log, rating("e1"), rating("e1", value=Rating.VALUE_DOWN), rating("e1", owner="thief"))
    view.follow(log)
    seen = view.event("e1")
    assert seen is not None
    assert (seen.event.rating.value, seen.event.owner) == (Rating.VALUE_UP, "local")


def test_only_the_hash_of_messages_is_kept(log: SqliteLog, view: View) -> None:
    answer = completion("c1", question="a secret question")
    put(log, answer)
    assert view.messages_hash("c1") is None
    view.follow(log)
    assert view.messages_hash("c1") == messages_hash(answer)
    stored = b"".join(p.read_bytes() for p in view.path.parent.glob("view.db*"))
    assert b"c1" in stored
    assert b"secret question" not in stored


def test_it_follows_in_batches_and_resumes_after_reopening(log: SqliteLog, tmp_path: Path) -> None:
    put(log, *(rating(f"e{i}", i) for i in range(7)))
    view = View(tmp_path / "v.db")
    assert view.follow(log, limit=2) == 7
    view.close()
    put(log, rating("last", 9))
    view = View(tmp_path / "v.db")
    assert view.follow(log) == 1
    assert [i for i, _ in listed(view)] == [*(f"e{i}" for i in range(7)), "last"]
    view.close()
    rebuilt = View(tmp_path / "rebuilt.db")
    assert rebuilt.follow(log) == 8
    assert len(listed(rebuilt)) == 8
    rebuilt.close()


def test_a_failure_in_the_middle_keeps_whole_batches(log: SqliteLog, view: View) -> None:
    class Failing(SqliteLog):
        def __init__(self) -> None:
            self.reads = 0

        def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
            self.reads += 1
            if self.reads > 2:  # both topics have been read once
                raise LogUnavailable("unavailable")
            return log.read(topic, positions, limit)

    put(log, *(rating(f"e{i}", i) for i in range(5)))
    with pytest.raises(LogUnavailable):
        view.follow(Failing(), limit=2)
    assert [i for i, _ in listed(view)] == ["e0", "e1"]
    assert view.follow(log) == 3


def test_a_broken_file_is_a_view_error(tmp_path: Path) -> None:
    (tmp_path / "view.db").write_bytes(b"not a database at all, but long enough" * 100)
    with pytest.raises(ViewError, match="not a database"):
        View(tmp_path / "view.db")


def test_a_superseded_or_retracted_event_has_the_position_that_ended_it(
    log: SqliteLog, view: View
) -> None:
    put(log, rating("up"), rating("down", value=Rating.VALUE_DOWN), rating("again"))
    put(log, retraction("late", "up"), rating("other", 1), retraction("r", "other"))
    put(log, retraction("theft", "again", owner="somebody else"))
    view.follow(log)
    ended = {}
    for name in ("up", "down", "again", "other"):
        seen = view.event(name)
        assert seen is not None
        ended[name] = seen.ended
    assert ended == {
        "up": position_of("down", log),
        "down": position_of("again", log),
        "again": None,
        "other": position_of("r", log),
    }


class OutOfOrder(SqliteLog):
    """A log with a partition for each feedback record, read in reverse."""

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        found = super().read(topic, {})
        if topic != "feedback":
            return [r for r in found if r.offset >= positions.get(0, 0)]
        apart = [replace(r, partition=r.offset) for r in reversed(found)]
        return [r for r in apart if r.offset >= positions.get(r.partition, 0)]


def test_an_event_retracted_before_it_arrives_is_never_effective(tmp_path: Path) -> None:
    log, view = OutOfOrder(tmp_path / "log.db"), View(tmp_path / "view.db")
    put(log, rating("e1"), retraction("r", "e1"))
    view.follow(log)
    seen = view.event("e1")
    assert seen is not None
    assert seen.retracted
    assert seen.ended == seen.position
    assert view.effective_counts() == {}
    view.close()
    log.close()


def test_effective_and_pending_events_are_counted(log: SqliteLog, view: View) -> None:
    put(log, rating("up"), rating("down", value=Rating.VALUE_DOWN), rating("two", 1))
    put(log, comparison("c"), comment("said"), rating("gone", 2), retraction("r", "gone"))
    view.follow(log)
    assert view.effective_counts() == {"rating": 2, "comparison": 1, "comment": 1}
    assert view.count_pending(Coverage()) == 3, "comments are not votes"
    two = position_of("two", log)
    assert view.count_pending(Coverage({0: two.offset})) == 2
    assert view.count_pending(Coverage({0: two.offset + 1})) == 1
    everything = {0: log.ends("feedback")[0]}
    assert view.count_pending(Coverage(everything)) == 0
    missing = frozenset({two, position_of("up", log), LogPosition(0, 10_000)})
    assert view.count_pending(Coverage(everything, missing)) == 1, "'up' was superseded"


def test_a_view_of_an_earlier_release_is_rebuilt(tmp_path: Path, log: SqliteLog) -> None:
    put(log, rating("e1"))
    with closing(sqlite3.connect(tmp_path / "old.db")) as old:
        old.execute(
            "CREATE TABLE events (arrival INTEGER PRIMARY KEY, event_id TEXT, owner TEXT, "
            "subject TEXT, completion_id TEXT, target TEXT, superseded INTEGER, value BLOB)"
        )
        old.execute("CREATE TABLE positions (topic TEXT, partition INTEGER, next INTEGER)")
        old.execute("INSERT INTO positions VALUES ('feedback', 0, 1000)")
        old.commit()
    view = View(tmp_path / "old.db")
    assert view.follow(log) == 1
    assert listed(view) == [("e1", False)]
    view.close()
