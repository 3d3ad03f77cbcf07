"""Translation of request bodies into feedback events, and of events into responses."""

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
    """Return the SHA-256 of a body's canonical form, without white space, order and defaults."""
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
    """Return the event that a request asks to record.

    Args:
        request: The validated body.
        event_id: Id of the event.
        owner: Owner of the request's API key.
        subject: Pseudonym of the request's `user`; empty if there is none.
        created_ms: Time of the request, in milliseconds since the epoch.
        repeatable: Whether to include the body's digest, which detects repeated requests.

    """
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
    """Return the feedback of an event as the API presents it.

    A choice of the event's own completion is a number. The event must be valid
    (`events.find_defect`) and not a retraction.
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
    payload = {"kind": kind, "choice": _choice(event, message.candidate)}
    if kind == "rating":
        value = Rating.Value.Name(message.value).removeprefix("VALUE_").lower()
        return {**payload, "value": value}
    if kind == "score":
        return {**payload, "score": message.score}
    return {**payload, "text": message.text}


def _policy_version(completion_id: str) -> int:
    try:
        return parse_claims(completion_id).policy_version
    except ForgedId:
        return 0  # from a producer with its own ids


def feedback_object(
    event: FeedbackEvent, superseded: bool | None = None, learned_in: int | None = None
) -> dict[str, Any]:
    """Return accepted feedback as the API presents it: `schema.FeedbackObject` as JSON.

    Args:
        event: A valid event that is not a retraction.
        superseded: Whether a later vote has replaced it; None to leave the field out.
        learned_in: First version that learned from it, or None.

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
