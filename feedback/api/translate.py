"""From a request's body to a feedback event, and from an event to what the API answers."""

import hashlib
import json
from typing import Any

from feedback.api import schema
from feedback.api.schema import CandidateRef, FeedbackRequest, resolve
from feedback.log.events import KINDS, event_target, feedback_kind
from feedback.privacy.identity import ForgedId, parse_claims
from protos.plaudit.v1.feedback_pb2 import (
    Candidate,
    Comparison,
    FeedbackEvent,
    RankingGroup,
    Rating,
)


def body_digest(request: FeedbackRequest) -> bytes:
    """Return the SHA-256 of what the body says; spaces, key order and defaults do not matter."""
    canonical = json.dumps(request.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def event_from_request(
    request: FeedbackRequest,
    *,
    event_id: str,
    owner: str,
    subject: str,
    created_ms: int,
    repeatable: bool = True,
) -> FeedbackEvent:
    """Return the event that a request asks to record, with its body's digest if `repeatable`."""
    event = FeedbackEvent(
        event_id=event_id,
        completion_id=request.completion_id,
        owner=owner,
        subject=subject,
        created_ms=created_ms,
        source=f"SOURCE_{request.source.upper()}",
        reason=request.reason or "",
        decision_ms=request.decision_ms,
        body_digest=body_digest(request) if repeatable else b"",
    )
    shown = [_candidate(request, choice) for choice in request.shown or []]
    if all(candidate.completion_id == request.completion_id for candidate in shown):
        event.shown.extend(candidate.choice for candidate in shown)
    else:
        event.shown_candidates.extend(shown)
    _set_feedback(event, request)
    event.target = event_target(event)
    return event


def _candidate(request: FeedbackRequest, choice: int | CandidateRef) -> Candidate:
    completion_id, index = resolve(request.completion_id, choice)
    return Candidate(completion_id=completion_id, choice=index)


def _set_feedback(event: FeedbackEvent, request: FeedbackRequest) -> None:
    match request.feedback:
        case schema.Rating(choice=choice, value=value):
            rating = Rating(candidate=_candidate(request, choice), value=f"VALUE_{value.upper()}")
            event.rating.CopyFrom(rating)
        case schema.Score(choice=choice, score=score):
            event.score.candidate.CopyFrom(_candidate(request, choice))
            event.score.score = score
        case schema.Comparison(left=left, right=right, verdict=verdict):
            comparison = Comparison(
                left=_candidate(request, left),
                right=_candidate(request, right),
                verdict=f"VERDICT_{verdict.upper()}",
            )
            event.comparison.CopyFrom(comparison)
        case schema.Ranking(groups=groups):
            event.ranking.groups.extend(
                RankingGroup(candidates=[_candidate(request, choice) for choice in group])
                for group in groups
            )
        case schema.Demonstration(choice=choice, text=text):
            event.demonstration.candidate.CopyFrom(_candidate(request, choice))
            event.demonstration.text = text
        case schema.Comment(choice=choice, text=text):
            event.comment.candidate.CopyFrom(_candidate(request, choice))
            event.comment.text = text


def _choice(event: FeedbackEvent, candidate: Candidate) -> Any:
    if candidate.completion_id == event.completion_id:
        return candidate.choice
    return {"completion_id": candidate.completion_id, "choice": candidate.choice}


def feedback_payload(event: FeedbackEvent) -> dict[str, Any]:
    """Return the opinion as the API writes it, a choice of the event's own completion as a number.

    The event must be sound (`events.defect_of`) and no retraction.
    """
    kind = feedback_kind(event)
    assert kind in KINDS
    if kind == "comparison":
        verdict = Comparison.Verdict.Name(event.comparison.verdict)
        return {
            "kind": kind,
            "left": _choice(event, event.comparison.left),
            "right": _choice(event, event.comparison.right),
            "verdict": verdict.removeprefix("VERDICT_").lower(),
        }
    if kind == "ranking":
        groups = [[_choice(event, c) for c in g.candidates] for g in event.ranking.groups]
        return {"kind": kind, "groups": groups}
    message = getattr(event, kind)
    opinion = {"kind": kind, "choice": _choice(event, message.candidate)}
    if kind == "rating":
        value = Rating.Value.Name(message.value).removeprefix("VALUE_").lower()
        return {**opinion, "value": value}
    if kind == "score":
        return {**opinion, "score": message.score}
    return {**opinion, "text": message.text}


def _policy_version(completion_id: str) -> int:
    try:
        return parse_claims(completion_id).policy_version
    except ForgedId:
        return 0  # from a producer with ids of its own


def feedback_object(
    event: FeedbackEvent, superseded: bool | None = None, learned_in: int | None = None
) -> dict[str, Any]:
    """Return an accepted opinion as the API answers it: `schema.FeedbackObject` as JSON.

    Args:
        event: A sound event, and no retraction.
        superseded: Whether a later vote has replaced it, where a read says so.
        learned_in: The first version that learned from it; None: none has.

    """
    answer = {
        "id": event.event_id,
        "object": "feedback",
        "created": event.created_ms // 1000,
        "completion_id": event.completion_id,
        "policy_version": _policy_version(event.completion_id),
        "feedback": feedback_payload(event),
        "learned_in": learned_in,
    }
    return answer if superseded is None else {**answer, "superseded": superseded}
