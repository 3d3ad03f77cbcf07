"""Targets, defects and prompt hashes, on hand-made events."""

import math

import pytest

from feedback.log.event_log import LogRecord
from feedback.log.events import event_candidates, event_completion_ids, event_target, find_defect
from feedback.log.records import (
    COMPLETION_TYPE,
    FEEDBACK_TYPE,
    Undecodable,
    decode_completion,
    decode_feedback,
    messages_hash,
)
from protos.plaudit.v1.completion_pb2 import CompletionRecord, Message
from protos.plaudit.v1.feedback_pb2 import (
    Candidate,
    Comment,
    Comparison,
    Demonstration,
    FeedbackEvent,
    Rating,
    Score,
)
from tests.support.feedback_samples import comparison, completion, ranking, rating, retraction


def about(event: FeedbackEvent) -> list[tuple[str, int]]:
    return [(c.completion_id, c.choice) for c in event_candidates(event)]


def score(value: float) -> FeedbackEvent:
    candidate = Candidate(completion_id="c1", choice=0)
    return FeedbackEvent(completion_id="c1", score=Score(candidate=candidate, score=value))


def test_a_target_is_the_kind_and_the_unordered_candidates() -> None:
    assert event_target(rating("e", 1)) == "rating:c1/1"
    assert event_target(score(0.5)) == "score:c1/0"
    assert event_target(comparison("e")) == "comparison:c1/0,1"
    assert event_target(comparison("e", ("c1", 1), ("c1", 0))) == "comparison:c1/0,1"
    assert event_target(comparison("e", ("d", 0), ("c1", 3))) == "comparison:c1/3;d/0"
    assert event_target(ranking("e", [[2], [0, 10]])) == "ranking:c1/0,2,10"
    assert event_target(retraction("e", "fb-1")) == "retraction:fb-1"


def test_candidates_keep_the_order_of_the_feedback() -> None:
    assert about(ranking("e", [[2], [0, 1]])) == [("c1", 2), ("c1", 0), ("c1", 1)]
    assert about(comparison("e", ("d", 0), ("c1", 3))) == [("d", 0), ("c1", 3)]
    assert about(retraction("e", "fb-1")) == []
    assert event_completion_ids(comparison("e", ("d", 0), ("c1", 3))) == {"d", "c1"}
    assert event_completion_ids(retraction("e", "fb-1")) == set()


def test_valid_events_have_no_defect() -> None:
    valid = [
        rating("e"),
        comparison("e"),
        comparison("e", ("c1", 0), ("c2", 0)),
        ranking("e", [[0, 1]]),
        retraction("e", "fb-1"),
        score(0),
        score(1),
    ]
    assert [find_defect(event) for event in valid] == [None] * len(valid)


def broken() -> dict[str, FeedbackEvent]:
    unknown_verdict = comparison("e")
    unknown_verdict.comparison.verdict = 9  # type: ignore[assignment]
    no_verdict = comparison("e")
    no_verdict.comparison.verdict = Comparison.VERDICT_UNSPECIFIED
    unknown_source = rating("e")
    unknown_source.source = 9  # type: ignore[assignment]
    elsewhere = rating("e")
    elsewhere.completion_id = "c2"
    return {
        "no feedback": FeedbackEvent(completion_id="c1"),
        "unknown source 9": unknown_source,
        "unknown rating value 0": rating("e", value=Rating.VALUE_UNSPECIFIED),
        "unknown rating value 7": rating("e", value=7),  # type: ignore[arg-type]
        "unknown verdict 9": unknown_verdict,
        "unknown verdict 0": no_verdict,
        "score nan": score(math.nan),
        "score inf": score(math.inf),
        "score 1.5": score(1.5),
        "score -0.1": score(-0.1),
        "twice": comparison("e", ("c1", 1), ("c1", 1)),
        "empty": ranking("e", [[0, 1], []]),
        "at least two candidates": ranking("e", [[0]]),
        "names no completion": FeedbackEvent(completion_id="c1", rating=Rating(value=1)),
        "no candidate belongs": elsewhere,
        "retracts no event": retraction("e", ""),
    }


@pytest.mark.parametrize(("reason", "event"), broken().items(), ids=broken().keys())
def test_defects_are_described(reason: str, event: FeedbackEvent) -> None:
    assert reason in (find_defect(event) or "")


def test_a_kind_of_a_later_release_is_no_feedback() -> None:
    """Field 28 of the oneof does not exist yet; its bytes must not be read as a default."""
    later = FeedbackEvent(event_id="e", completion_id="c1").SerializeToString() + b"\xe2\x01\x00"
    assert "no feedback" in (find_defect(FeedbackEvent.FromString(later)) or "")


def test_comments_and_demonstrations_have_targets_too() -> None:
    candidate = Candidate(completion_id="c1", choice=2)
    comment = FeedbackEvent(comment=Comment(candidate=candidate, text="a"))
    demonstration = FeedbackEvent(demonstration=Demonstration(candidate=candidate, text="a"))
    assert event_target(comment) == "comment:c1/2"
    assert event_target(demonstration) == "demonstration:c1/2"


def record(value: bytes, kind: str) -> LogRecord:
    return LogRecord("feedback", 0, 0, "k", kind, value, 0)


def test_records_of_another_type_or_without_an_id_are_undecodable() -> None:
    event, answer = rating("e"), completion()
    assert decode_feedback(record(event.SerializeToString(), FEEDBACK_TYPE)) == event
    assert decode_completion(record(answer.SerializeToString(), COMPLETION_TYPE)) == answer
    with pytest.raises(Undecodable, match=r"its type is 'x', not 'protos\.plaudit"):
        decode_feedback(record(event.SerializeToString(), "x"))
    with pytest.raises(Undecodable, match="its bytes are not a"):
        decode_feedback(record(b"\xff\xff", FEEDBACK_TYPE))
    with pytest.raises(Undecodable, match="its bytes are not a"):
        decode_completion(record(b"\xff\xff", COMPLETION_TYPE))
    with pytest.raises(Undecodable, match="no event id or no owner"):
        decode_feedback(record(b"", FEEDBACK_TYPE))
    with pytest.raises(Undecodable, match="no completion id or no owner"):
        decode_completion(record(b"", COMPLETION_TYPE))


def test_only_equal_messages_have_equal_hashes() -> None:
    def chat(*pairs: tuple[str, str]) -> CompletionRecord:
        return CompletionRecord(messages=[Message(role=r, content=c) for r, c in pairs])

    same = [chat(("user", "hi")), completion("other id", owner="o", question="hi")]
    assert messages_hash(same[0]) == messages_hash(same[1])
    parts = chat(("user", "hi"))
    parts.messages[0].content_json = '[{"type":"text","text":"hi"}]'
    assert messages_hash(parts) == messages_hash(same[0]), "the chat template gets the same text"
    named, with_tools = chat(("user", "hi")), chat(("user", "hi"))
    named.messages[0].others_json = '{"name":"anna"}'
    with_tools.template_json = '{"tools":[]}'
    distinct = [
        named,
        with_tools,
        chat(("user", "hi")),
        chat(("system", "hi")),
        chat(("user", "hi"), ("user", "")),
        chat(("user", "h"), ("i", "")),
        chat(("userhi", "")),
        CompletionRecord(prompt="hi"),
        CompletionRecord(prompt_token_ids=[1, 23]),
        CompletionRecord(prompt_token_ids=[12, 3]),
        CompletionRecord(completion_id="a", multimodal=True),
        CompletionRecord(completion_id="b", multimodal=True),
    ]
    assert len({messages_hash(r) for r in distinct}) == len(distinct)
