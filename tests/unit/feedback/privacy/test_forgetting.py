"""Forgetting a person: every byte is erased from ledger and view, and late records are dropped."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback.ledger.rows import Erasure, LedgerCounts
from feedback.ledger.store import Ledger
from feedback.log.event_log import NewRecord, RecordKey
from feedback.log.events import find_defect
from feedback.log.records import COMPLETION_TYPE
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.forgetting import ForgettingSearch, search_log
from feedback.view.feedback_view import View
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Rating
from tests.support.feedback_samples import (
    comparison,
    completion,
    forgetting,
    put,
    rating,
    retraction,
)


def bytes_of(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.glob(f"{path.name}*"))


def effective_ids(ledger: Ledger, after: int = 0, upto: int | None = None) -> list[str]:
    return [joined.event.event_id for joined in ledger.effective_events(after, upto)]


def viewed_ids(view: View) -> list[str]:
    return [seen.event.event_id for seen in view.events("local", limit=100)]


def two_people(log: SqliteLog) -> None:
    """Ann asks c1 and Bob asks c2; both vote on both; Ann's reasons are her own."""
    put(
        log,
        completion("c1", subject="ann", question="ann's secret"),
        completion("c2", subject="bob", question="bob's question"),
        rating("a1", completion_id="c1", subject="ann", reason="ann's secret"),
        rating("b1", completion_id="c1", subject="bob", reason="bob on ann's secret"),
        rating("b2", completion_id="c2", subject="bob", reason="bob's reason"),
        rating("a2", completion_id="c2", subject="ann", reason="ann's secret"),
        retraction("r", "b1"),
        rating("b3", 1, completion_id="c2", subject="bob"),
    )


def test_forgetting_erases_ledger_and_view(log: SqliteLog, ledger: Ledger, view: View) -> None:
    two_people(log)
    ledger.follow(log)
    view.follow(log)
    assert effective_ids(ledger) == ["a1", "b2", "a2", "b3"]
    for path in (ledger.path, view.path):
        assert b"ann's secret" in bytes_of(path)
    put(log, forgetting("f", "ann"))
    ledger.follow(log)
    view.follow(log)
    assert effective_ids(ledger) == ["b2", "b3"]
    assert viewed_ids(view) == ["b2", "b3"]
    (prompt,) = ledger.prompts(9)
    assert prompt.messages == [{"role": "user", "content": "bob's question"}]
    assert view.messages_hash("c1") is None
    for path in (ledger.path, view.path):
        assert b"ann's secret" not in bytes_of(path)
        assert b"bob's reason" in bytes_of(path)
    assert ledger.is_erasure_complete()
    assert view.has_applied_forgetting("f")
    assert not view.has_applied_forgetting("another")


def test_assigned_numbers_stay_and_none_is_assigned_twice(log: SqliteLog, ledger: Ledger) -> None:
    two_people(log)
    put(log, rating("last", 1, completion_id="c1", subject="ann"))
    ledger.follow(log)
    before = {j.event.event_id: j.seq for j in ledger.effective_events()}
    assert ledger.counts().max_seq == 7
    put(log, forgetting("f", "ann"))
    ledger.follow(log)
    assert ledger.counts() == LedgerCounts(2, 1, 0, 0, 7), "the last number was the person's"
    put(log, rating("new", 1, Rating.VALUE_DOWN, completion_id="c2", subject="cid"))
    ledger.follow(log)
    after = {j.event.event_id: j.seq for j in ledger.effective_events()}
    assert after == {"b2": before["b2"], "b3": before["b3"], "new": 8}
    assert effective_ids(ledger, upto=3) == ["b2"]


def test_an_erasure_is_counted_once_with_its_first_number(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion("c0"), rating("e0", completion_id="c0"))
    ledger.follow(log)
    two_people(log)
    put(log, forgetting("f", "ann"), forgetting("f", "ann"), forgetting("g", "nobody"))
    ledger.follow(log)
    # c1 may have been a prompt of a policy that learned up to 2, when only e0 had a number.
    assert ledger.erasures("local", "ann") == [Erasure(1, "f", 2, 4, 1)]
    [nothing] = ledger.erasures("local", "nobody")
    assert (nothing.first_seq, nothing.events, nothing.completions) == (None, 0, 0)
    assert ledger.last_forgetting() == 1, "the second erased no training data"


def test_late_records_are_dropped_and_erased_from_the_log(
    log: SqliteLog, ledger: Ledger, view: View
) -> None:
    put(log, rating("waits", completion_id="c1", subject="bob"), forgetting("f", "ann", 1000))
    ledger.follow(log)
    view.follow(log)
    assert ledger.erase_forgotten(log) == 0
    late = completion("c1", subject="ann", created_ms=1000, question="ann's secret")
    put(log, late, rating("a", completion_id="c1", subject="ann", created_ms=999))
    put(log, rating("b", 1, completion_id="c1", subject="bob", created_ms=2000))
    put(log, retraction("r", "waits"))
    ledger.follow(log)
    view.follow(log)
    assert ledger.event_ids() == ["r"], "a retraction refers to no completion"
    assert ledger.effective_events() == []
    assert viewed_ids(view) == []
    assert ledger.erase_forgotten(log) == 4
    assert ledger.erase_forgotten(log) == 0
    assert [r.key for r in log.read("feedback", {})] == ["f", "r"]
    assert log.read("completions", {}) == []
    for path in (ledger.path, view.path, log.path):
        assert b"ann's secret" not in bytes_of(path)


def test_later_records_are_ingested(log: SqliteLog, ledger: Ledger, view: View) -> None:
    two_people(log)
    put(log, forgetting("f", "ann", 1000))
    put(log, completion("c3", subject="ann", created_ms=1001))
    put(log, rating("again", completion_id="c3", subject="ann", created_ms=1001))
    ledger.follow(log)
    view.follow(log)
    assert effective_ids(ledger) == ["b2", "b3", "again"]
    assert viewed_ids(view) == ["b2", "b3", "again"]


def test_other_owners_and_subjects_are_kept(log: SqliteLog, ledger: Ledger, view: View) -> None:
    put(log, completion("c1", owner="o"), rating("o", owner="o", subject="ann"))
    put(log, completion("c2"), rating("anonymous", completion_id="c2"), forgetting("f", "ann"))
    ledger.follow(log)
    view.follow(log)
    assert effective_ids(ledger) == ["o", "anonymous"]
    assert viewed_ids(view) == ["anonymous"]


def test_dead_letters_are_erased_too(log: SqliteLog, ledger: Ledger) -> None:
    unset = FeedbackEvent(event_id="u", owner="local", subject="ann", reason="ann's secret")
    put(log, unset, completion("c1", owner="o"), rating("stolen", subject="ann"))
    log.append("completions", [NewRecord("c9", COMPLETION_TYPE, b"\xff")])
    ledger.follow(log)
    ledger.mirror_dead_letters(log)
    assert len(log.read("dead-letter", {})) == 3
    search = ForgettingSearch("local", "ann", 1000)
    found = search_log(log, search)
    assert {key.key for key in found["dead-letter"]} == {"feedback/0/0", "feedback/0/1"}
    put(log, forgetting("f", "ann"))
    ledger.follow(log)
    assert [d.key for d in ledger.dead_letters()] == ["c9"]
    ledger.erase_forgotten(log)
    assert [r.key for r in log.read("dead-letter", {})] == ["completions/0/1"]
    assert [r.key for r in log.read("feedback", {})] == ["f"]
    for path in (ledger.path, log.path):
        assert b"ann's secret" not in bytes_of(path)


def test_a_search_of_the_log_finds_what_the_ledger_erases(log: SqliteLog, ledger: Ledger) -> None:
    two_people(log)
    put(log, completion("c3", subject="bob", question="ann's secret"))
    put(log, comparison("both", ("c3", 0), ("c1", 0)), retraction("undone", "both"))
    found = search_log(log, ForgettingSearch("local", "ann", 1000))
    assert found["completions"] == {RecordKey("c1")}
    assert {(k.key, k.partition_key) for k in found["feedback"]} == {
        ("a1", "c1"),
        ("b1", "c1"),
        ("a2", "c2"),
        ("r", "c1"),
        ("both", "c3"),
        ("undone", "c1"),
    }
    put(log, forgetting("f", "ann"))
    ledger.follow(log)
    rows = ledger._db.execute("SELECT topic, key, partition_key FROM to_erase")
    assert {(t, RecordKey(k, p)) for t, k, p in rows} == {
        (topic, key) for topic, keys in found.items() for key in keys
    }


@pytest.mark.parametrize("broken", [("", 1), ("ann", 0)])
def test_a_forgetting_without_a_person_or_time_is_a_dead_letter(
    log: SqliteLog, ledger: Ledger, broken: tuple[str, int]
) -> None:
    put(log, completion("c1"), rating("e1"), forgetting("f", *broken))
    defect = find_defect(forgetting("f", *broken))
    assert defect == "the forgetting request names no person or no time"
    ledger.follow(log)
    assert effective_ids(ledger) == ["e1"]
    assert [d.key for d in ledger.dead_letters()] == ["f"]


def test_a_view_of_a_release_without_subjects_is_rebuilt(log: SqliteLog, tmp_path: Path) -> None:
    two_people(log)
    view = View(tmp_path / "old.db")
    view.follow(log)
    view._write.execute("DROP INDEX completions_subject")
    view._write.execute("ALTER TABLE completions DROP COLUMN subject")
    view._write.execute("PRAGMA user_version=0")
    view.close()
    view = View(tmp_path / "old.db")
    assert viewed_ids(view) == []
    view.follow(log)
    put(log, forgetting("f", "ann"))
    view.follow(log)
    assert viewed_ids(view) == ["b2", "b3"]
    view.close()


PEOPLE = st.sampled_from(["ann", "bob"])
RECORDS = st.lists(
    st.one_of(
        st.tuples(st.just("completion"), st.integers(0, 3), PEOPLE),
        st.tuples(st.just("vote"), st.integers(0, 3), st.integers(0, 1), PEOPLE),
        st.tuples(st.just("retract"), st.integers(0, 9)),
        st.just(("forget",)),
    ),
    max_size=25,
)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=RECORDS, cuts=st.lists(st.integers(1, 5), max_size=5))
def test_nothing_is_kept_in_any_order_of_arrival(
    records: list[tuple],  # type: ignore[type-arg]
    cuts: list[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Each completion has one person; the forgetting may arrive before, between or after."""
    folder = tmp_path_factory.mktemp("order")
    log, ledger = SqliteLog(folder / "log.db"), Ledger(folder / "ledger.db")
    view = View(folder / "view.db")
    owners: dict[int, str] = {}
    for position, step in enumerate([*records, ("forget",)]):
        match step:
            case ("completion", number, person):
                owners.setdefault(number, person)
                put(log, completion(f"c{number}", subject=owners[number], question="of " + person))
            case ("vote", number, choice, person):
                event_id = f"e{position % 10}-{position}"
                put(log, rating(event_id, choice, completion_id=f"c{number}", subject=person))
            case ("retract", number):
                put(log, retraction(f"r{position}", f"e{number}-{number}"))
            case ("forget",):
                put(log, forgetting(f"f{position}", "ann"))
    for limit in [*cuts, 100]:
        ledger.follow(log, limit)
        view.follow(log)
    theirs = {f"c{n}" for n, person in owners.items() if person == "ann"}
    rows = ledger._db.execute("SELECT value FROM events").fetchall()
    for event in (FeedbackEvent.FromString(row[0]) for row in rows):
        assert event.subject != "ann"
        assert event.WhichOneof("kind") == "retraction" or event.completion_id not in theirs
    records_kept = ledger._db.execute("SELECT value FROM completions").fetchall()
    kept = {CompletionRecord.FromString(row[0]).subject for row in records_kept}
    assert kept <= {"bob"}
    assert {e.event.subject for e in view.events("local", limit=100)} <= {"bob"}
    assert {j.event.event_id for j in ledger.effective_events()} <= set(viewed_ids(view))
    ledger.erase_forgotten(log)
    assert search_log(log, ForgettingSearch("local", "ann", 1000))["completions"] == set()
    for opened in (log, ledger, view):
        opened.close()
