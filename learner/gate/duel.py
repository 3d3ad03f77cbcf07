"""Decide a trial: do people prefer the challenger to the live version?

Each vote between an answer of the challenger and one of the live version is a win, a loss or a
tie; ties are counted but are no evidence. The test is Wald's sequential probability ratio test
(A. Wald 1945, "Sequential tests of statistical hypotheses", Annals of Mathematical Statistics 16)
of a win rate of one half against a win rate that is higher by an edge.

The likelihood ratio is a supermartingale for every win rate of at most one half, and its inverse
for every win rate of at least one half plus the edge. By Ville's inequality (see Ramdas, Grünwald,
Vovk and Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference", Statistical
Science 38) the thresholds 1/alpha and beta therefore bound the errors, however often the votes are
evaluated:

- a challenger that is not better goes live with probability `alpha` at most;
- a challenger that is better by the edge is rolled back on the evidence of its votes with
  probability `beta` at most.

The votes are assumed to be independent: a person who votes on a hundred answers counts a hundred
times, up to the bound on the votes of one owner (`learner.data.owner_bound`). A trial without a
decision after `max_votes` is rolled back, which is the safe choice.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from learner.data.owner_bound import DEFAULT_BOUND, OwnerBound
from learner.data.preferences import JoinedEvent
from learner.settings import DuelSettings
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import Candidate, Comparison, FeedbackEvent

# 1 for the challenger, -1 for the live version, 0 for a tie.
Vote = Literal[1, 0, -1]
_VERDICTS: Final[dict[int, Vote]] = {
    Comparison.VERDICT_LEFT: 1,
    Comparison.VERDICT_RIGHT: -1,
    Comparison.VERDICT_TIE: 0,
    Comparison.VERDICT_BOTH_BAD: 0,
}


@dataclass(frozen=True, slots=True)
class TrialResult:
    """State of a trial after some votes, or its decision.

    Attributes:
        wins: Number of votes for the challenger.
        losses: Number of votes for the live version.
        ties: Number of ties.
        evidence: Logarithm of the likelihood ratio, in nats.
        promoted: True if the challenger goes live, False if it is rolled back, None if the trial
            goes on.
        reason: Reason for the decision; empty if the trial goes on.

    """

    wins: int = 0
    losses: int = 0
    ties: int = 0
    evidence: float = 0.0
    promoted: bool | None = None
    reason: str = ""


def evaluate_trial(votes: Iterable[Vote], settings: DuelSettings) -> TrialResult:
    """Evaluate votes in order until they decide the trial; later votes are ignored."""
    win_evidence = math.log((0.5 + settings.edge) / 0.5)
    loss_evidence = math.log((0.5 - settings.edge) / 0.5)
    upper, lower = -math.log(settings.alpha), math.log(settings.beta)
    wins = losses = ties = 0
    evidence = 0.0
    for vote in votes:
        wins, losses, ties = wins + (vote == 1), losses + (vote == -1), ties + (vote == 0)
        evidence = wins * win_evidence + losses * loss_evidence
        if evidence >= upper:
            return TrialResult(wins, losses, ties, evidence, True, "people prefer it")
        if evidence <= lower:
            return TrialResult(wins, losses, ties, evidence, False, "people do not prefer it")
        if wins + losses + ties >= settings.max_votes:
            reason = f"no decision after {settings.max_votes} votes"
            return TrialResult(wins, losses, ties, evidence, False, reason)
    return TrialResult(wins, losses, ties, evidence)


def trial_votes(
    events: Iterable[JoinedEvent], *, live: int, challenger: int, bound: OwnerBound = DEFAULT_BOUND
) -> list[Vote]:
    """Return the votes between an answer of each version, in order.

    Only the last vote of each person on each completion counts: a ranking of more than two
    answers, or several comparisons of them, are not independent votes.

    Args:
        events: Joined events in the order in which they were given.
        live: Live version.
        challenger: Version on trial.
        bound: Bound on the votes of one owner; further votes are left out.

    """
    votes: dict[tuple[str, str, str], Vote] = {}
    for joined in events:
        event = joined.event
        if len(joined.completions) != 1:
            continue  # the versions of an answer and its regeneration were not assigned at random
        ((completion_id, record),) = joined.completions.items()
        vote = _vote(event, _sides(record, live=live, challenger=challenger))
        if vote is not None:
            person = (event.owner, event.subject, completion_id)
            votes.pop(person, None)  # the later vote takes its own place in the order
            votes[person] = vote
    admitted = bound.admit(owner for owner, _, _ in votes)
    return [vote for vote, counts in zip(votes.values(), admitted, strict=True) if counts]


def _sides(record: CompletionRecord, *, live: int, challenger: int) -> dict[int, Vote]:
    """Return the side of each choice: 1 for the challenger, -1 for the live version.

    Choices that were not sampled entirely by one of the two versions are left out.
    """
    sides: dict[int, Vote] = {}
    for choice in record.choices:
        versions = {span.policy_version for span in choice.versions}
        if versions == {challenger}:
            sides[choice.index] = 1
        elif versions == {live}:
            sides[choice.index] = -1
    return sides


def _vote(event: FeedbackEvent, sides: dict[int, Vote]) -> Vote | None:
    match event.WhichOneof("kind"):
        case "comparison":
            return _comparison_vote(event.comparison, sides)
        case "ranking":
            return _ranking_vote([list(g.candidates) for g in event.ranking.groups], sides)
    return None


def _comparison_vote(comparison: Comparison, sides: dict[int, Vote]) -> Vote | None:
    left, right = sides.get(comparison.left.choice), sides.get(comparison.right.choice)
    verdict = _VERDICTS.get(comparison.verdict)
    if left is None or right is None or left == right or verdict is None:
        return None
    return _sign(verdict * left)


def _ranking_vote(groups: Sequence[Sequence[Candidate]], sides: dict[int, Vote]) -> Vote | None:
    """Return the version that is ahead in more of the pairs of one answer of each version."""
    ranks: dict[int, list[int]] = {1: [], -1: []}
    for rank, group in enumerate(groups):
        for candidate in group:
            if candidate.choice in sides:
                ranks[sides[candidate.choice]].append(rank)
    pairs = [(challenger, live) for challenger in ranks[1] for live in ranks[-1]]
    if not pairs:
        return None
    return _sign(sum((challenger < live) - (challenger > live) for challenger, live in pairs))


def _sign(number: int) -> Vote:
    return 1 if number > 0 else -1 if number < 0 else 0
