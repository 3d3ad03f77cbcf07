"""Kinds, candidates, targets and defects of feedback events, whatever produced them.

An event's target is its kind and the unordered set of its candidates. Feedback supersedes
earlier feedback of the same subject and owner on the same target: a rating supersedes a
rating of that choice but not a score of it, and a comparison supersedes the same comparison
with the sides exchanged. This applies to every kind, including comments and demonstrations.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from protos.plaudit.v1.feedback_pb2 import Candidate, Comparison, FeedbackEvent, Rating, Source

KINDS: Final = ("rating", "score", "comparison", "ranking", "demonstration", "comment")
RETRACTION: Final = "retraction"
FORGETTING: Final = "forgetting"


def feedback_kind(event: FeedbackEvent) -> str | None:
    """Return the event's kind; None if it has none, or one unknown to this release."""
    kind: str | None = event.WhichOneof("kind")
    return kind


def event_candidates(event: FeedbackEvent) -> list[Candidate]:
    """Return the candidates of the feedback, in its own order; none for requests."""
    kind = feedback_kind(event)
    if kind is None or kind in (RETRACTION, FORGETTING):
        return []
    if kind == "comparison":
        return [event.comparison.left, event.comparison.right]
    if kind == "ranking":
        return [candidate for group in event.ranking.groups for candidate in group.candidates]
    return [getattr(event, kind).candidate]


def event_completion_ids(event: FeedbackEvent) -> set[str]:
    """Return the ids of the completions that must be known before the event can be used."""
    if feedback_kind(event) in (RETRACTION, FORGETTING):
        return set()
    return {event.completion_id, *(c.completion_id for c in event_candidates(event))}


def event_target(event: FeedbackEvent) -> str:
    """Return the canonical form of the event's target, `kind:completion/0,1;completion/0`."""
    kind = feedback_kind(event)
    if kind == RETRACTION:
        return f"{RETRACTION}:{event.retraction.event_id}"
    choices: dict[str, set[int]] = defaultdict(set)
    for candidate in event_candidates(event):
        choices[candidate.completion_id].add(candidate.choice)
    parts = (f"{c}/{','.join(map(str, sorted(choices[c])))}" for c in sorted(choices))
    return f"{kind}:{';'.join(parts)}"


def find_defect(event: FeedbackEvent) -> str | None:
    """Return why the event cannot be used; None if it can.

    Missing feedback, an unknown enum value and a number out of range are defects; nothing is
    ever replaced by a default.
    """
    return next(_iter_defects(event), None)


def _iter_defects(event: FeedbackEvent) -> Iterator[str]:
    kind = feedback_kind(event)
    if kind is None:
        yield "it has no feedback, or feedback of an unknown kind"
    if event.source not in Source.values():
        yield f"unknown source {event.source}"
    validate = _VALIDATORS.get(kind or "")
    defect = validate(event) if validate else None
    if defect:
        yield defect
    yield from _iter_candidate_defects(event)


def _retraction_defect(event: FeedbackEvent) -> str | None:
    return None if event.retraction.event_id else "it retracts no event"


def _forgetting_defect(event: FeedbackEvent) -> str | None:
    person = event.forgetting
    if bool(person.subject) != person.unnamed and person.until_ms > 0:
        return None
    return "the forgetting request names no person or no time"


def _rating_defect(event: FeedbackEvent) -> str | None:
    value = event.rating.value
    known = value in (Rating.VALUE_UP, Rating.VALUE_DOWN)
    return None if known else f"unknown rating value {value}"


def _score_defect(event: FeedbackEvent) -> str | None:
    score = event.score.score
    in_range = math.isfinite(score) and 0 <= score <= 1
    return None if in_range else f"the score {score} is not between 0 and 1"


def _comparison_defect(event: FeedbackEvent) -> str | None:
    verdict = event.comparison.verdict
    known = set(Comparison.Verdict.values()) - {Comparison.VERDICT_UNSPECIFIED}
    return None if verdict in known else f"unknown verdict {verdict}"


def _ranking_defect(event: FeedbackEvent) -> str | None:
    filled = all(group.candidates for group in event.ranking.groups)
    return None if filled else "a group of the ranking is empty"


_VALIDATORS: Final[Mapping[str, Callable[[FeedbackEvent], str | None]]] = {
    RETRACTION: _retraction_defect,
    FORGETTING: _forgetting_defect,
    "rating": _rating_defect,
    "score": _score_defect,
    "comparison": _comparison_defect,
    "ranking": _ranking_defect,
}


def _iter_candidate_defects(event: FeedbackEvent) -> Iterator[str]:
    pairs = [(c.completion_id, c.choice) for c in event_candidates(event)]
    if not all(completion_id for completion_id, _ in pairs):
        yield "a candidate names no completion"
    if len(set(pairs)) < len(pairs):
        yield "a candidate occurs twice"
    if feedback_kind(event) == "ranking" and len(pairs) < 2:
        yield "a ranking needs at least two candidates"
    if pairs and event.completion_id not in {completion_id for completion_id, _ in pairs}:
        yield "no candidate belongs to the event's completion"
