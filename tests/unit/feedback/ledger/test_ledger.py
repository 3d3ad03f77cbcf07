"""The ledger: every record exactly once, joined, reproducible, without default labels."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback.ledger import intake, store
from feedback.ledger.rows import LedgerCounts, RecordedLengths, RecordedPrompt
from feedback.ledger.store import Ledger, LedgerError
from feedback.log.event_log import (
    MAX_RECORD_BYTES,
    LogError,
    LogRecord,
    LogUnavailable,
    NewRecord,
    Positions,
    RecordsRefused,
    Topic,
)
from feedback.log.records import FEEDBACK_TYPE, feedback_record
from feedback.log.sqlite_log import SqliteLog
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import DeadLetter, FeedbackEvent, Rating
from tests.support.feedback_samples import comparison, completion, put, ranking, rating, retraction


def effective_ids(ledger: Ledger, after: int = 0, upto: int | None = None) -> list[str]:
    return [joined.event.event_id for joined in ledger.effective_events(after, upto)]


def reasons(ledger: Ledger) -> list[str]:
    return [letter.reason for letter in ledger.dead_letters()]


def test_an_event_is_joined_with_its_completion(log: SqliteLog, ledger: Ledger) -> None:
    answer, vote = completion("c1"), rating("e1")
    put(log, answer, vote)
    assert ledger.lag(log) == 2
    assert ledger.follow(log) == 2
    assert ledger.lag(log) == 0
    [joined] = ledger.effective_events()
    assert (joined.seq, joined.event, joined.completions) == (1, vote, {"c1": answer})
    assert ledger.counts() == LedgerCounts(
        events=1, completions=1, waiting=0, dead_letters=0, max_seq=1
    )
    assert ledger.follow(log) == 0


def test_a_repeated_event_id_counts_once(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion(), rating("e1"), rating("e1", value=Rating.VALUE_DOWN))
    ledger.follow(log)
    put(log, rating("e1"), completion(choices=[0]))
    ledger.follow(log)
    [joined] = ledger.effective_events()
    assert joined.event.rating.value == Rating.VALUE_UP
    assert len(joined.completions["c1"].choices) == 2, "the first record of an id is kept"
    assert ledger.event_ids() == ["e1"]
    assert ledger.counts().completions == 1


def test_feedback_waits_for_its_completion_and_is_then_numbered(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, rating("early", completion_id="late"), completion("c1"), rating("e1"))
    ledger.follow(log)
    assert ledger.counts() == LedgerCounts(2, 1, 1, 0, 1)
    assert effective_ids(ledger) == ["e1"]
    put(log, completion("late"))
    ledger.follow(log)
    assert ledger.counts() == LedgerCounts(2, 2, 0, 0, 2)
    assert effective_ids(ledger) == ["e1", "early"]
    assert effective_ids(ledger, after=1) == ["early"], "the next cycle learns from the late vote"
    assert effective_ids(ledger, upto=1) == ["e1"], "the snapshot of the earlier cycle is unchanged"


def test_a_comparison_waits_for_both_of_its_completions(log: SqliteLog, ledger: Ledger) -> None:
    put(log, comparison("e1", ("a", 0), ("b", 0)), completion("a"))
    ledger.follow(log)
    assert ledger.counts().waiting == 1
    put(log, completion("b"))
    ledger.follow(log)
    assert set(ledger.effective_events()[0].completions) == {"a", "b"}


def test_waiting_events_are_numbered_in_the_order_they_came(log: SqliteLog, ledger: Ledger) -> None:
    put(log, rating("1", completion_id="b"), rating("2", completion_id="a"))
    put(log, rating("3", 1, completion_id="b"))
    ledger.follow(log)
    put(log, completion("b"), completion("a"))
    ledger.follow(log)
    assert effective_ids(ledger) == ["1", "2", "3"]


def test_the_latest_vote_wins_as_of_each_snapshot(log: SqliteLog, ledger: Ledger) -> None:
    put(
        log, completion(), rating("up"), rating("down", value=Rating.VALUE_DOWN), rating("other", 1)
    )
    ledger.follow(log)
    assert effective_ids(ledger) == ["down", "other"]
    assert effective_ids(ledger, upto=1) == ["up"]
    assert ledger.counts().events == 3, "history is kept"


def test_votes_of_other_subjects_owners_and_kinds_supersede_nothing(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, completion("c1"), completion("c2", owner="o"))
    put(log, rating("a", subject="a"), rating("b", subject="b"), rating("anonymous"))
    put(log, rating("o", completion_id="c2", owner="o"), comparison("c"), ranking("r", [[0], [1]]))
    ledger.follow(log)
    assert effective_ids(ledger) == ["a", "b", "anonymous", "o", "c", "r"]
    put(log, rating("a again", subject="a"), comparison("c turned", ("c1", 1), ("c1", 0)))
    ledger.follow(log)
    assert effective_ids(ledger) == ["b", "anonymous", "o", "r", "a again", "c turned"]


def test_a_retraction_takes_effect_at_its_own_number(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion(), rating("e1"), rating("e2", 1), retraction("r", "e1"))
    ledger.follow(log)
    assert effective_ids(ledger) == ["e2"]
    assert effective_ids(ledger, upto=2) == ["e1", "e2"]


def test_only_the_owner_retracts(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion(), rating("e1"), retraction("r", "e1", owner="somebody else"))
    ledger.follow(log)
    assert effective_ids(ledger) == ["e1"]


def test_retracting_the_latest_vote_does_not_restore_the_one_before(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, completion(), rating("up"), rating("down", value=Rating.VALUE_DOWN))
    put(log, retraction("r", "down"))
    ledger.follow(log)
    assert effective_ids(ledger) == []


def test_an_event_retracted_before_it_is_joined_is_never_effective(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, rating("e1"), retraction("r", "e1"))
    ledger.follow(log)
    put(log, completion())
    ledger.follow(log)
    assert effective_ids(ledger) == []


def test_choices_that_are_not_recorded_are_left_out(log: SqliteLog, ledger: Ledger) -> None:
    put(
        log,
        completion(choices=[0, 2, 3]),
        ranking("r", [[1], [2, 1], [0]]),
        ranking("q", [[3], [1, 0]]),
    )
    put(log, rating("gone", 1), comparison("half gone"), ranking("one left", [[0], [1]]))
    ledger.follow(log)
    [joined] = ledger.effective_events()
    groups = [[c.choice for c in g.candidates] for g in joined.event.ranking.groups]
    assert (joined.event.event_id, groups) == ("q", [[3], [0]])
    # The ranking "r" names a choice twice, which is a defect of its own.
    assert sorted(reasons(ledger)) == [
        "a candidate occurs twice",
        *["the records of its completions lack the choices that it refers to"] * 3,
    ]


def test_unusable_records_become_dead_letters(log: SqliteLog, ledger: Ledger) -> None:
    unset = FeedbackEvent(event_id="unset", owner="local", completion_id="c1")
    put(log, completion(), unset, rating("e0", value=Rating.VALUE_UNSPECIFIED))
    log.append("feedback", [NewRecord("k", FEEDBACK_TYPE, b"\xff\xfe"), NewRecord("k", "x", b"y")])
    log.append("completions", [NewRecord("c9", "x", b"\xff")])
    put(log, rating("good"))
    assert ledger.follow(log) == 7
    assert effective_ids(ledger) == ["good"]
    letters = ledger.dead_letters()
    assert [(d.topic, d.offset, d.key, d.value) for d in letters] == [
        ("completions", 1, "c9", b"\xff"),
        ("feedback", 0, "unset", unset.SerializeToString()),
        ("feedback", 1, "e0", rating("e0", value=Rating.VALUE_UNSPECIFIED).SerializeToString()),
        ("feedback", 2, "k", b"\xff\xfe"),
        ("feedback", 3, "k", b"y"),
    ]
    assert "no feedback" in letters[1].reason
    assert "unknown rating value 0" in letters[2].reason
    assert "its bytes are not a" in letters[3].reason
    assert "its type is 'x'" in letters[4].reason
    assert ledger.counts() == LedgerCounts(1, 1, 0, 5, 1)
    assert ledger.follow(log) == 0, "an unusable record does not stop the ledger"


def test_dead_letters_are_mirrored_once(log: SqliteLog, ledger: Ledger) -> None:
    log.append("feedback", [NewRecord("k", "x", b"\xff")])
    ledger.follow(log)
    assert [ledger.mirror_dead_letters(log) for _ in range(2)] == [1, 0]
    (record,) = log.read("dead-letter", {})
    letter = DeadLetter.FromString(record.value)
    assert (letter.topic, letter.offset, letter.value) == ("feedback", 0, b"\xff")
    assert "its type is 'x'" in letter.reason


def test_dead_letters_are_tried_again(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion("c1"), rating("e0", completion_id="c2"), completion("c2", owner="other"))
    log.append("feedback", [NewRecord("k", "x", b"\xff")])
    ledger.follow(log)
    assert len(ledger.dead_letters()) == 2
    with ledger._lock:  # the cause is fixed: the completion belongs to the owner
        ledger._db.execute("UPDATE completions SET owner = 'local'")
    assert ledger.retry_dead_letters(log) == 2
    ledger.follow(log)
    assert effective_ids(ledger) == ["e0"]
    assert [d.key for d in ledger.dead_letters()] == ["k"]


def test_a_retry_that_the_log_refuses_loses_nothing(log: SqliteLog, ledger: Ledger) -> None:
    log.append("feedback", [NewRecord("k", "x", b"\xff")])
    ledger.follow(log)
    log.close()
    with pytest.raises(LogError):
        ledger.retry_dead_letters(log)
    assert len(ledger.dead_letters()) == 1


def test_completions_that_do_not_fit_together_are_dead_letters(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, completion("a"), completion("other", question="What time is it?"))
    put(log, completion("foreign", owner="o"), completion("again"))
    put(log, comparison("fits", ("a", 0), ("again", 0)))
    put(log, comparison("prompts", ("a", 0), ("other", 0)))
    put(log, comparison("owners", ("a", 1), ("foreign", 0)))
    put(log, rating("stolen", completion_id="foreign"))
    put(log, comparison("waits", ("a", 0), ("later", 0)))
    ledger.follow(log)
    assert effective_ids(ledger) == ["fits"]
    put(log, completion("later", question="Who?"), comparison("waits", ("a", 0), ("later", 0)))
    ledger.follow(log)
    assert effective_ids(ledger) == ["fits"]
    assert [(d.key, d.reason) for d in ledger.dead_letters()] == [
        ("prompts", "its completions have different prompts"),
        ("owners", "completion foreign belongs to another owner"),
        ("stolen", "completion foreign belongs to another owner"),
        ("waits", "its completions have different prompts"),
    ]
    assert ledger.counts() == LedgerCounts(1, 5, 0, 4, 1)


def prompted(completion_id: str, question: str, token_ids: list[int]) -> CompletionRecord:
    record = completion(completion_id, question=question)
    record.prompt_token_ids.extend(token_ids)
    return record


def test_prompts_are_distinct_and_the_latest_first(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion("1", question="one"), completion("2", question="two"))
    put(log, rating("e", completion_id="1"))
    ledger.follow(log)
    put(log, completion("3", question="one"), prompted("4", "four", [7, 8]))
    put(log, CompletionRecord(completion_id="5", owner="o", prompt="text"))
    multimodal = completion("6", question="seen")
    multimodal.multimodal = True
    put(log, multimodal)
    ledger.follow(log)
    contents = [[m["content"] for m in prompt.messages] for prompt in ledger.prompts(10)]
    assert contents == [["four"], ["one"], ["two"]]
    (latest,) = ledger.prompts(1)
    assert latest == RecordedPrompt([{"role": "user", "content": "four"}], [7, 8])
    before = [[m["content"] for m in prompt.messages] for prompt in ledger.prompts(10, upto_seq=1)]
    assert before == [["two"], ["one"]]


def test_the_prompts_of_one_owner_do_not_displace_those_of_others(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, completion("a", owner="anna", question="Anna's"))
    put(log, *(completion(f"f{i}", owner="flood", question=f"{i}") for i in range(9)))
    ledger.follow(log)
    contents = [prompt.messages[0]["content"] for prompt in ledger.prompts(4)]
    assert contents == ["8", "Anna's", "5", "2"]


def test_an_unavailable_log_leaves_the_ledger_unchanged(log: SqliteLog, ledger: Ledger) -> None:
    class Unavailable(SqliteLog):
        def __init__(self) -> None: ...

        def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
            if topic == "completions":
                return log.read(topic, positions, limit)
            raise LogUnavailable("unavailable")

    put(log, completion())
    with pytest.raises(LogUnavailable):
        ledger.follow(Unavailable())
    assert ledger.counts() == LedgerCounts(0, 0, 0, 0, 0)
    assert ledger.follow(log) == 1


def test_two_followers_of_one_file_do_not_mix(log: SqliteLog, ledger: Ledger) -> None:
    other = Ledger(ledger.path)

    class Overtaking(SqliteLog):
        def __init__(self) -> None: ...

        def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
            records = log.read(topic, positions, limit)
            if topic == "feedback":
                other.follow(log)
            return records

    put(log, completion(), rating("e1"))
    with pytest.raises(LedgerError, match="another process"):
        ledger.follow(Overtaking())
    assert ledger.follow(log) == 0
    assert effective_ids(ledger) == effective_ids(other) == ["e1"]
    other.close()


FOLLOWER = """
    import sys
    from pathlib import Path
    from feedback.ledger.store import Ledger
    from feedback.log.sqlite_log import SqliteLog
    log, ledger = SqliteLog(Path(sys.argv[1])), Ledger(Path(sys.argv[2]))
    while True:
        ledger.follow(log, limit=3)
        print("followed", flush=True)
"""


def test_sigkill_while_following_loses_no_event(log: SqliteLog, tmp_path: Path) -> None:
    for start in range(0, 600, 200):
        events = [
            rating(f"e{i}", i % 2, subject=str(i), completion_id=f"c{i}")
            for i in range(start, start + 200)
        ]
        log.append("feedback", [feedback_record(event) for event in events])
    for i in reversed(range(600)):
        if i % 3:
            put(log, completion(f"c{i}"))
    path = tmp_path / "killed.db"
    for follows in (1, 5, 20, 2, 9):
        code = [sys.executable, "-c", textwrap.dedent(FOLLOWER), str(log.path), str(path)]
        with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(follows):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
    ledger = Ledger(path)
    before = [(j.seq, j.event.event_id) for j in ledger.effective_events()]
    assert ledger.lag(log) > 0, "the kills came in the middle"
    while ledger.follow(log):
        pass
    assert ledger.event_ids() == [f"e{i}" for i in range(600)]
    assert ledger.counts() == LedgerCounts(600, 400, 200, 0, 400)
    after = [(j.seq, j.event.event_id) for j in ledger.effective_events()]
    assert after[: len(before)] == before
    assert [seq for seq, _ in after] == list(range(1, 401))
    ledger.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("completion"), st.integers(0, 2)),
        st.tuples(st.just("vote"), st.integers(0, 2), st.integers(0, 1), st.sampled_from("ab")),
        st.tuples(st.just("retract"), st.integers(0, 15)),
        st.tuples(st.just("follow"), st.integers(1, 4)),
    ),
    max_size=40,
)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_snapshots_never_change(
    steps: list[tuple],
    tmp_path_factory: pytest.TempPathFactory,  # type: ignore[type-arg]
) -> None:
    """Later records never change what `effective_events` returns for a snapshot."""
    folder = tmp_path_factory.mktemp("snapshots")
    log, ledger = SqliteLog(folder / "log.db"), Ledger(folder / "ledger.db")
    snapshots: dict[int, tuple[list[str], list[list[dict[str, str]]]]] = {}
    votes = 0
    for step in [*steps, ("follow", 1000)]:
        match step:
            case ("completion", number):
                put(log, completion(f"c{number}", question=str(number)))
            case ("vote", number, choice, subject):
                put(log, rating(f"e{votes}", choice, completion_id=f"c{number}", subject=subject))
                votes += 1
            case ("retract", number):
                put(log, retraction(f"r{number}", f"e{number}"))
            case ("follow", limit):
                ledger.follow(log, limit)
                upto = ledger.counts().max_seq
                seen = (effective_ids(ledger, upto=upto), ledger.prompts(9, upto))
                assert snapshots.setdefault(upto, seen) == seen
    for upto, (events, prompts) in snapshots.items():
        assert effective_ids(ledger, upto=upto) == events
        assert ledger.prompts(9, upto) == prompts
    log.close()
    ledger.close()


def test_a_dead_letter_too_large_for_the_log_is_mirrored_without_its_bytes(
    log: SqliteLog, ledger: Ledger
) -> None:
    large = NewRecord("large", "unknown.Type", bytes(MAX_RECORD_BYTES - 100))
    log.append("feedback", [large])
    ledger.follow(log)
    assert ledger.mirror_dead_letters(log) == 1
    [record] = log.read("dead-letter", {})
    letter = DeadLetter.FromString(record.value)
    assert (letter.key, letter.value) == ("large", b"")
    assert letter.reason.endswith(f"(its {len(large.value)} bytes are left out)")
    assert ledger.dead_letters()[0].value == large.value


def test_a_dead_letter_that_the_log_refuses_stays_in_the_ledger_and_stops_nothing(
    log: SqliteLog, ledger: Ledger
) -> None:
    class Refusing(SqliteLog):
        """A log that refuses everything for good."""

        def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
            raise RecordsRefused({record.key: "it is too large" for record in records})

    log.append("feedback", [NewRecord(str(i), "unknown.Type", b"v") for i in range(20)])
    ledger.follow(log)
    refusing = Refusing(log.path)
    assert ledger.mirror_dead_letters(refusing) == 20
    assert ledger.mirror_dead_letters(refusing) == 0
    assert len(ledger.dead_letters()) == 20
    refusing.close()


def test_an_event_that_is_set_aside_is_a_dead_letter_and_no_longer_effective(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, completion(), rating("e1"), rating("e2", 1), rating("e3", subject="anne"))
    ledger.follow(log)
    ledger.set_aside({1: "too large", 3: "not of this model", 9: "unknown"})
    ledger.set_aside({1: "a second time"})
    assert effective_ids(ledger) == ["e2"]
    assert reasons(ledger) == ["too large", "not of this model"]
    assert ledger.mirror_dead_letters(log) == 2
    assert ledger.counts() == LedgerCounts(
        events=1, completions=1, waiting=0, dead_letters=2, max_seq=3
    )
    [lessons] = ledger.coverage(3)
    assert (lessons.next, list(lessons.missing)) == (3, [0, 2]), "nothing was learned from them"
    put(log, rating("e1"))
    ledger.follow(log)
    assert effective_ids(ledger) == ["e2"], "a repeated event does not come back"


def test_a_retry_makes_events_that_were_set_aside_effective_with_new_numbers(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, completion(), rating("e1"), rating("e2", 1))
    log.append("feedback", [NewRecord("odd", "unknown.Type", b"v")])
    ledger.follow(log)
    ledger.set_aside({2: "too large"})
    assert ledger.retry_dead_letters(log) == 2
    assert ledger.follow(log) == 1, "only the record that could not be decoded is appended again"
    assert [j.seq for j in ledger.effective_events()] == [1, 3]
    assert effective_ids(ledger, upto=2) == ["e1"]
    assert [letter.key for letter in ledger.dead_letters()] == ["odd"]


def test_a_retry_does_not_bring_back_a_vote_that_a_later_one_superseded(
    log: SqliteLog, ledger: Ledger
) -> None:
    put(log, completion(), rating("old"), rating("new"))
    ledger.follow(log)
    ledger.set_aside({1: "too large"})
    ledger.retry_dead_letters(log)
    ledger.follow(log)
    assert effective_ids(ledger) == ["new"]
    assert ledger.dead_letters() == []


def test_lengths_are_those_of_the_prompts_that_are_chosen_and_of_their_answers(
    log: SqliteLog, ledger: Ledger
) -> None:
    """Answers that were cut off by their reader say nothing, nor do unrecorded ones."""
    answered = prompted("1", "one", [7, 8, 9])
    answered.choices[0].token_ids.extend([1] * 5)
    answered.choices[1].token_ids.extend([1] * 4)
    answered.choices[1].finish_reason = "abort"
    put(log, prompted("0", "one", [7]), answered, completion("2", question="unrecorded"))
    put(log, rating("e", completion_id="1"))
    ledger.follow(log)
    before = ledger.lengths(10)
    assert before == RecordedLengths(prompts=(3,), answers=(5,))
    put(log, prompted("3", "three", [7, 8]))
    ledger.follow(log)
    assert sorted(ledger.lengths(10).prompts) == [2, 3]
    assert ledger.lengths(1).prompts == (2,)
    assert ledger.lengths(10, upto_seq=1) == before, "later answers do not count in a cycle"


def test_prompts_that_are_too_long_are_left_out(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion("1", question="x" * 11), completion("2", question="x" * 10))
    ledger.follow(log)
    (prompt,) = ledger.prompts(9, max_characters=10)
    assert prompt.messages == [{"role": "user", "content": "x" * 10}]


def test_a_record_that_causes_an_error_is_a_dead_letter_and_stops_no_other(
    log: SqliteLog, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_defect(event: FeedbackEvent) -> str | None:
        if event.event_id == "poison":
            raise ValueError("unforeseen")
        return None

    monkeypatch.setattr(intake, "find_defect", find_defect)
    put(log, completion(), rating("poison"), rating("e1"))
    ledger.follow(log)
    assert effective_ids(ledger) == ["e1"]
    assert reasons(ledger) == ["it cannot be ingested: ValueError: unforeseen"]


def test_a_record_that_causes_an_error_leaves_nothing_behind(
    log: SqliteLog, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str | None:
        raise ValueError("unforeseen")

    put(log, completion(), rating("e1"))
    with monkeypatch.context() as patch:
        patch.setattr(intake.RecordIngester, "_find_mismatch", fail)
        ledger.follow(log)
    assert effective_ids(ledger) == []
    assert reasons(ledger) == ["it cannot be ingested: ValueError: unforeseen"]
    ledger.retry_dead_letters(log)
    ledger.follow(log)
    assert effective_ids(ledger) == ["e1"]


def test_a_vote_that_waited_and_causes_an_error_stops_no_other(
    log: SqliteLog, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(log, rating("e1"))
    ledger.follow(log)
    put(log, completion())

    def fail(*_: object) -> str | None:
        raise ValueError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(intake.RecordIngester, "_find_mismatch", fail)
        ledger.follow(log)
    assert reasons(ledger) == ["it cannot be ingested: ValueError: unforeseen"]
    put(log, rating("e2"))
    ledger.follow(log)
    assert effective_ids(ledger) == ["e2"]


def test_a_stream_of_votes_holds_few_at_once_and_yields_the_same(
    log: SqliteLog, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_JOINED_TOGETHER", 3)
    put(log, *(completion(f"c{n}") for n in range(10)))
    put(log, *(rating(f"e{n}", completion_id=f"c{n}") for n in range(10)))
    put(log, retraction("r", "e4"))
    ledger.follow(log)
    expected = [f"e{n}" for n in range(10) if n != 4]
    assert [joined.event.event_id for joined in ledger.stream_events()] == expected
    assert effective_ids(ledger) == expected
    assert ledger.count_effective(0, 11) == 9
    assert ledger.count_effective(2, 10) == 8, "before the retraction"
    stream, read = ledger.stream_events(), []
    monkeypatch.setattr(ledger, "_completions", lambda ids: read.append(set(ids)) or {})
    with pytest.raises(KeyError):
        next(stream)
    assert read == [{"c0", "c1", "c2"}]


def test_votes_that_come_during_a_stream_are_not_in_it(log: SqliteLog, ledger: Ledger) -> None:
    put(log, completion("c1"), rating("e1"), rating("e2", choice=1))
    ledger.follow(log)
    stream = ledger.stream_events()
    assert next(stream).event.event_id == "e1"
    put(log, retraction("r", "e2"), rating("e3", subject="other"))
    ledger.follow(log)
    assert [joined.event.event_id for joined in stream] == ["e2"]
