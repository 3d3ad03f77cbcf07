"""Deciding a duel: do people prefer the version on trial to the live one?

Each vote is a win or a loss of the challenger; a tie says nothing and is counted apart. The test
is Wald's sequential probability ratio test (A. Wald 1945, "Sequential tests of statistical
hypotheses", Annals of Mathematical Statistics 16) of a win rate of a half against one that is
better by an edge.

The likelihood ratio is a supermartingale wherever the rate is a half or less, its inverse where
the rate is that of the edge or more, so by Ville's inequality (see Ramdas, Grünwald, Vovk and
Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38)
the thresholds 1/alpha and beta bound the errors, however often the votes are looked at:

- a challenger that is no better goes live with probability `alpha` at most;
- one that is better by the edge is rolled back by its votes with probability `beta` at most.

This takes votes to be independent: one person who votes on a hundred answers counts a hundred
times. A duel without a decision after `max_votes` is rolled back, which is the safe side: the live
version is the one that is known.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from learner.data.preferences import JoinedEvent
from learner.settings import DuelSettings
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import Candidate, Comparison, FeedbackEvent

# For the challenger, for neither, for the live version.
Vote = Literal[1, 0, -1]
_VERDICTS: Final[dict[int, Vote]] = {
    Comparison.VERDICT_LEFT: 1,
    Comparison.VERDICT_RIGHT: -1,
    Comparison.VERDICT_TIE: 0,
    Comparison.VERDICT_BOTH_BAD: 0,
}


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Where a duel stands, or stood when it was decided.

    Attributes:
        wins: Votes for the challenger.
        losses: Votes for the live version.
        ties: Votes for neither.
        evidence: Logarithm of the likelihood ratio, nats.
        promoted: The challenger goes live (True) or is rolled back (False); None: go on.
        reason: Why; empty where it goes on.

    """

    wins: int = 0
    losses: int = 0
    ties: int = 0
    evidence: float = 0.0
    promoted: bool | None = None
    reason: str = ""


def evaluate_trial(votes: Iterable[Vote], settings: DuelSettings) -> TrialResult:
    """Take votes in their order until they decide; what comes after that is not looked at."""
    won = math.log((0.5 + settings.edge) / 0.5)
    lost = math.log((0.5 - settings.edge) / 0.5)
    upper, lower = -math.log(settings.alpha), math.log(settings.beta)
    wins = losses = ties = 0
    evidence = 0.0
    for vote in votes:
        wins, losses, ties = wins + (vote == 1), losses + (vote == -1), ties + (vote == 0)
        evidence = wins * won + losses * lost
        if evidence >= upper:
            return TrialResult(wins, losses, ties, evidence, True, "people prefer it")
        if evidence <= lower:
            return TrialResult(wins, losses, ties, evidence, False, "people do not prefer it")
        if wins + losses + ties >= settings.max_votes:
            reason = f"no decision after {settings.max_votes} votes"
            return TrialResult(wins, losses, ties, evidence, False, reason)
    return TrialResult(wins, losses, ties, evidence)


def trial_votes(events: Iterable[JoinedEvent], *, live: int, challenger: int) -> list[Vote]:
    """Return the votes on answers of which one was sampled by each version, in their order.

    A person has one vote a completion, the last one: of a ranking of more than two answers, or
    of several comparisons of them, that is not several independent opinions.
    """
    votes: dict[tuple[str, str, str], Vote] = {}
    for judged in events:
        event = judged.event
        if len(judged.completions) != 1:
            continue  # an answer and its regeneration were not chosen from at random
        ((completion_id, record),) = judged.completions.items()
        vote = _vote(event, _sides(record, live=live, challenger=challenger))
        if vote is not None:
            person = (event.owner, event.subject, completion_id)
            votes.pop(person, None)  # the later one stands where it was given
            votes[person] = vote
    return list(votes.values())


def _sides(record: CompletionRecord, *, live: int, challenger: int) -> dict[int, Vote]:
    """Return by choice whose it is: 1 of the challenger, -1 of the live version."""
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
    """Return the version that is ahead in more of the pairs of one answer from each."""
    ranks: dict[int, list[int]] = {1: [], -1: []}
    for rank, group in enumerate(groups):
        for candidate in group:
            if candidate.choice in sides:
                ranks[sides[candidate.choice]].append(rank)
    pairs = [(mine, other) for mine in ranks[1] for other in ranks[-1]]
    if not pairs:
        return None
    return _sign(sum((mine < other) - (mine > other) for mine, other in pairs))


def _sign(number: int) -> Vote:
    return 1 if number > 0 else -1 if number < 0 else 0
