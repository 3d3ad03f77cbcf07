"""What a feedback event is about, and what is wrong with it, whoever produced it.

An event's target is its kind and the unordered set of its candidates. A vote replaces the
earlier votes of the same subject of the same owner on the same target: a rating replaces a
rating of that choice but not a score of it, and a comparison replaces the same comparison
with the sides exchanged. This holds for every kind, comments and demonstrations included.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from protos.plaudit.v1.feedback_pb2 import Candidate, Comparison, FeedbackEvent, Rating, Source

KINDS: Final = ("rating", "score", "comparison", "ranking", "demonstration", "comment")
RETRACTION: Final = "retraction"
FORGETTING: Final = "forgetting"


def feedback_kind(event: FeedbackEvent) -> str | None:
    """Return the name of the opinion's kind; None where this version knows none."""
    kind: str | None = event.WhichOneof("kind")
    return kind


def event_candidates(event: FeedbackEvent) -> list[Candidate]:
    """Return the candidates that the opinion is about, in its own order; none where it is none."""
    kind = feedback_kind(event)
    if kind is None or kind in (RETRACTION, FORGETTING):
        return []
    if kind == "comparison":
        return [event.comparison.left, event.comparison.right]
    if kind == "ranking":
        return [candidate for group in event.ranking.groups for candidate in group.candidates]
    return [getattr(event, kind).candidate]


def event_completion_ids(event: FeedbackEvent) -> set[str]:
    """Return the ids of the completions that must be known before the opinion can be used."""
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
    """Say why the event cannot be used, or None.

    An absent opinion, an enum value that this version does not know and a figure out of
    range are defects; nothing is ever read as a default.
    """
    return next(_iter_defects(event), None)


def _iter_defects(event: FeedbackEvent) -> Iterator[str]:
    kind = feedback_kind(event)
    if kind is None:
        yield "it has no opinion, or one of a kind that this version does not know"
    if event.source not in Source.values():
        yield f"unknown source {event.source}"
    if kind == RETRACTION and not event.retraction.event_id:
        yield "it retracts no event"
    if kind == FORGETTING and not (event.forgetting.subject and event.forgetting.until_ms > 0):
        yield "it names nobody to forget, or no time"
    if kind == "rating" and event.rating.value not in (Rating.VALUE_UP, Rating.VALUE_DOWN):
        yield f"unknown rating value {event.rating.value}"
    if kind == "score":
        score = event.score.score
        if not (math.isfinite(score) and 0 <= score <= 1):
            yield f"score {score} is not in 0 to 1"
    if kind == "comparison" and (
        event.comparison.verdict == Comparison.VERDICT_UNSPECIFIED
        or event.comparison.verdict not in Comparison.Verdict.values()
    ):
        yield f"unknown verdict {event.comparison.verdict}"
    if kind == "ranking" and not all(group.candidates for group in event.ranking.groups):
        yield "a group of the ranking is empty"
    yield from _candidate_defects(event)


def _candidate_defects(event: FeedbackEvent) -> Iterator[str]:
    kind = feedback_kind(event)
    pairs = [(c.completion_id, c.choice) for c in event_candidates(event)]
    if not all(completion_id for completion_id, _ in pairs):
        yield "a candidate names no completion"
    if len(set(pairs)) < len(pairs):
        yield "a candidate stands in it twice"
    if kind == "ranking" and len(pairs) < 2:
        yield "a ranking needs two candidates"
    if pairs and event.completion_id not in {completion_id for completion_id, _ in pairs}:
        yield "none of its candidates is of its completion"
