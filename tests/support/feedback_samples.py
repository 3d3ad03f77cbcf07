"""Builders of feedback events and completion records for tests."""

from collections.abc import Sequence

from feedback.log.event_log import EventLog
from feedback.log.events import event_target
from feedback.log.records import completion_record, feedback_record
from protos.plaudit.v1.completion_pb2 import Choice, CompletionRecord, Message
from protos.plaudit.v1.feedback_pb2 import (
    Candidate,
    Comment,
    Comparison,
    FeedbackEvent,
    Forgetting,
    Ranking,
    RankingGroup,
    Rating,
    Retraction,
)


def completion(
    completion_id: str = "c1",
    *,
    owner: str = "local",
    choices: Sequence[int] = (0, 1),
    question: str = "Why is the sky blue?",
    subject: str = "",
    created_ms: int = 0,
) -> CompletionRecord:
    return CompletionRecord(
        completion_id=completion_id,
        owner=owner,
        subject=subject,
        created_ms=created_ms,
        messages=[Message(role="user", content=question)],
        choices=[Choice(index=i, text=f"answer {i}") for i in choices],
    )


def rating(
    event_id: str,
    choice: int = 0,
    value: Rating.Value = Rating.VALUE_UP,
    *,
    completion_id: str = "c1",
    owner: str = "local",
    subject: str = "",
    created_ms: int = 0,
    reason: str = "",
) -> FeedbackEvent:
    event = FeedbackEvent(
        event_id=event_id,
        completion_id=completion_id,
        owner=owner,
        subject=subject,
        created_ms=created_ms,
        reason=reason,
    )
    candidate = Candidate(completion_id=completion_id, choice=choice)
    event.rating.CopyFrom(Rating(candidate=candidate, value=value))
    return with_target(event)


def comparison(
    event_id: str,
    left: tuple[str, int] = ("c1", 0),
    right: tuple[str, int] = ("c1", 1),
    *,
    owner: str = "local",
) -> FeedbackEvent:
    event = FeedbackEvent(event_id=event_id, completion_id=left[0], owner=owner)
    event.comparison.CopyFrom(
        Comparison(
            left=Candidate(completion_id=left[0], choice=left[1]),
            right=Candidate(completion_id=right[0], choice=right[1]),
            verdict=Comparison.VERDICT_LEFT,
        )
    )
    return with_target(event)


def ranking(
    event_id: str, groups: Sequence[Sequence[int]], completion_id: str = "c1"
) -> FeedbackEvent:
    event = FeedbackEvent(event_id=event_id, completion_id=completion_id, owner="local")
    event.ranking.CopyFrom(
        Ranking(
            groups=[
                RankingGroup(
                    candidates=[Candidate(completion_id=completion_id, choice=c) for c in g]
                )
                for g in groups
            ]
        )
    )
    return with_target(event)


def comment(event_id: str, choice: int = 0, completion_id: str = "c1") -> FeedbackEvent:
    event = FeedbackEvent(event_id=event_id, completion_id=completion_id, owner="local")
    candidate = Candidate(completion_id=completion_id, choice=choice)
    event.comment.CopyFrom(Comment(candidate=candidate, text="Too long."))
    return with_target(event)


def retraction(event_id: str, retracted: str, *, owner: str = "local") -> FeedbackEvent:
    event = FeedbackEvent(event_id=event_id, completion_id="c1", owner=owner)
    event.retraction.CopyFrom(Retraction(event_id=retracted))
    return with_target(event)


def forgetting(
    event_id: str, subject: str, until_ms: int = 1000, *, owner: str = "local"
) -> FeedbackEvent:
    event = FeedbackEvent(event_id=event_id, owner=owner)
    event.forgetting.CopyFrom(Forgetting(subject=subject, until_ms=until_ms))
    return with_target(event)


def with_target(event: FeedbackEvent) -> FeedbackEvent:
    event.target = event_target(event)
    return event


def put(log: EventLog, *messages: CompletionRecord | FeedbackEvent) -> None:
    """Append completions and feedback events to their topics."""
    for message in messages:
        if isinstance(message, CompletionRecord):
            log.append("completions", [completion_record(message)])
        else:
            log.append("feedback", [feedback_record(message)])
