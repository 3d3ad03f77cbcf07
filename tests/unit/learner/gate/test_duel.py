"""Trials: which votes count, when they decide, and how often the decision is wrong."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feedback.control.policies import append_policy_event
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from learner.cycle.metrics import Metrics
from learner.cycle.publishing import Publisher
from learner.cycle.waiting import Trials
from learner.gate.duel import TrialResult, Vote, evaluate_trial, trial_votes
from learner.settings import DuelSettings
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.completion_pb2 import CompletionRecord, VersionSpan
from protos.plaudit.v1.feedback_pb2 import Comparison, FeedbackEvent
from protos.plaudit.v1.policy_pb2 import Activated, Hold, KeyMade, Published, SwapFailed
from tests.support.feedback_samples import comparison, completion, put, ranking, with_target

SETTINGS = DuelSettings(alpha=0.05, beta=0.05, edge=0.1, max_votes=600)


@pytest.mark.parametrize(
    ("vote", "enough", "promoted"),
    # ln(1.2) = 0.1823 a win, ln(0.8) = -0.2231 a loss; the bounds are at -+ln(0.05) = 2.9957.
    [(1, 17, True), (-1, 14, False)],
)
def test_unanimous_votes_decide_at_the_bound(vote: Vote, enough: int, promoted: bool) -> None:
    assert evaluate_trial([vote] * (enough - 1), SETTINGS).promoted is None
    assert evaluate_trial([vote] * enough, SETTINGS).promoted is promoted


def test_evidence_is_the_likelihood_ratio_and_ties_are_no_evidence() -> None:
    result = evaluate_trial([1, 0, -1, 0, 1], SETTINGS)
    assert (result.wins, result.losses, result.ties) == (2, 1, 2)
    assert result.evidence == pytest.approx(2 * 0.182322 - 0.223144, abs=1e-5)
    assert result.promoted is None


def test_votes_after_the_decision_are_ignored() -> None:
    votes: list[Vote] = [*[1] * 17, *[-1] * 200]  # type: ignore[list-item]
    assert evaluate_trial(votes, SETTINGS) == evaluate_trial([1] * 17, SETTINGS)


def test_without_a_decision_the_live_version_stays() -> None:
    settings = DuelSettings(max_votes=10)
    assert evaluate_trial([1, -1] * 4, settings).promoted is None
    ended = evaluate_trial([1, -1, 0, 0, 0] * 2, settings)
    assert ended.promoted is False
    assert "no decision after 10 votes" in ended.reason


def promoted_share(win_rate: float, duels: int = 1500) -> float:
    source = random.Random(7)
    ended = [
        evaluate_trial([1 if source.random() < win_rate else -1 for _ in range(600)], SETTINGS)
        for _ in range(duels)
    ]
    assert all(e.promoted is not None for e in ended)
    return sum(bool(e.promoted) for e in ended) / duels


# Three standard deviations of 1500 duels at a rate of 0.05 are 0.017.
@pytest.mark.parametrize("win_rate", [0.35, 0.45, 0.5])
def test_a_challenger_that_is_not_better_rarely_goes_live(win_rate: float) -> None:
    assert promoted_share(win_rate) <= 0.05 + 0.017


@pytest.mark.parametrize("win_rate", [0.6, 0.65, 0.7])
def test_a_challenger_that_is_better_by_the_edge_is_rarely_rolled_back(win_rate: float) -> None:
    assert promoted_share(win_rate) >= 1 - 0.05 - 0.017


def duel(completion_id: str = "c1", versions: tuple[int, ...] = (1, 2)) -> CompletionRecord:
    """Return a completion whose choices were each sampled entirely by one of these versions."""
    record = completion(completion_id, choices=range(len(versions)))
    for choice, version in zip(record.choices, versions, strict=True):
        choice.token_ids[:] = [5, 6]
        choice.versions.append(VersionSpan(policy_version=version, start=0, end=2))
    return record


class Joined:
    """A joined event."""

    def __init__(self, event: FeedbackEvent, *records: CompletionRecord) -> None:
        self.event = event
        self.completions = {record.completion_id: record for record in records}


def compared(
    verdict: Comparison.Verdict,
    completion_id: str = "c1",
    subject: str = "",
    choices: tuple[int, int] = (0, 1),
) -> FeedbackEvent:
    left, right = choices
    event = comparison(
        f"{completion_id}-{subject}-{choices}", (completion_id, left), (completion_id, right)
    )
    event.subject = subject
    event.comparison.verdict = verdict
    return with_target(event)


def votes(*joined: Any) -> list[Vote]:
    return trial_votes(joined, live=1, challenger=2)


LEFT, RIGHT = Comparison.VERDICT_LEFT, Comparison.VERDICT_RIGHT
TIE, BOTH_BAD = Comparison.VERDICT_TIE, Comparison.VERDICT_BOTH_BAD


@pytest.mark.parametrize(
    ("verdict", "versions", "vote"),
    [
        (LEFT, (1, 2), -1),
        (LEFT, (2, 1), 1),
        (RIGHT, (1, 2), 1),
        (RIGHT, (2, 1), -1),
        (TIE, (1, 2), 0),
        (BOTH_BAD, (2, 1), 0),
    ],
)
def test_a_comparison_is_a_vote_for_the_version_of_the_better_answer(
    verdict: Comparison.Verdict, versions: tuple[int, int], vote: Vote
) -> None:
    assert votes(Joined(compared(verdict), duel(versions=versions))) == [vote]


@pytest.mark.parametrize("versions", [(1, 1), (2, 2), (1, 3), (3, 2)])
def test_answers_of_other_versions_are_no_votes(versions: tuple[int, int]) -> None:
    assert votes(Joined(compared(LEFT), duel(versions=versions))) == []


def test_an_answer_that_began_on_another_version_is_no_vote() -> None:
    record = duel()
    record.choices[0].versions[0].end = 1
    record.choices[0].versions.append(VersionSpan(policy_version=3, start=1, end=2))
    assert votes(Joined(compared(LEFT), record)) == []


def test_answers_of_two_completions_are_no_vote() -> None:
    event = comparison("e", ("c1", 0), ("c2", 1))
    assert votes(Joined(event, duel("c1"), duel("c2"))) == []


def test_a_ranking_is_one_vote_for_the_version_ahead_in_most_pairs() -> None:
    four = (1, 2, 1, 2)
    # Challenger's choices 1 and 3 at ranks 0 and 2; the live version's at 1 and 3: 3 pairs of 4.
    assert votes(Joined(ranking("a", [[1], [0], [3], [2]]), duel(versions=four))) == [1]
    assert votes(Joined(ranking("b", [[0], [1, 3], [2]]), duel(versions=four))) == [0]
    assert votes(Joined(ranking("c", [[0, 2], [1], [3]]), duel(versions=four))) == [-1]
    assert votes(Joined(ranking("d", [[0], [2]]), duel(versions=four))) == []


def test_only_the_last_vote_of_a_person_on_a_completion_counts() -> None:
    record, other = duel(versions=(1, 2, 1, 2)), duel("c2")
    assert votes(
        Joined(compared(LEFT, subject="a"), record),
        Joined(compared(RIGHT, subject="b"), record),
        Joined(compared(LEFT, "c2", subject="a"), other),
        Joined(compared(RIGHT, subject="a", choices=(2, 3)), record),
    ) == [1, -1, 1]


def test_ratings_and_comments_are_no_votes() -> None:
    rated = FeedbackEvent(event_id="r", completion_id="c1", owner="local")
    rated.rating.candidate.completion_id = "c1"
    assert votes(Joined(rated, duel())) == []


class Home:
    """A registry with weights 1 and an adapter 2 of them on trial, a log and a ledger."""

    def __init__(self, home: Path) -> None:
        self.log = SqliteLog(home / "log.db")
        self.ledger = Ledger(home / "ledger.db")
        registry = FolderRegistry(home / "registry")
        (home / "model").mkdir()
        (home / "model" / "config.json").write_text("{}")
        registry.publish(home / "model", version=1, parent=0, base="tiny")
        registry.publish(home / "model", version=2, parent=1, base="tiny", adapter_base=1)
        self.publisher = Publisher(home, self.log)
        self.metrics = Metrics()
        self.trials = Trials(self.ledger, self.publisher, self.metrics, SETTINGS)
        append_policy_event(self.log, Published(version=1))
        self.publisher.claim_leadership("test")
        append_policy_event(self.log, Published(version=2, parent=1, trial=True))

    def vote(
        self, verdict: Comparison.Verdict, start: int, count: int, owner: str = "local"
    ) -> None:
        for number in range(start, start + count):
            record, event = duel(f"c{number}"), compared(verdict, f"c{number}", f"user{number}")
            record.owner = event.owner = owner
            put(self.log, record, event)
        while self.ledger.follow(self.log):
            pass

    def is_on_trial(self) -> bool:
        return self.trials.advance(self.publisher.state())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.ledger.close()
    made.log.close()


def test_the_votes_in_the_ledger_promote_the_challenger(home: Home) -> None:
    home.vote(RIGHT, 0, 16)
    assert home.is_on_trial()
    assert home.is_on_trial(), "without new votes there is no decision"
    home.vote(RIGHT, 16, 1)
    assert not home.is_on_trial()
    state = home.publisher.state()
    assert (state.live, state.challenger, state.previous) == (2, 0, 1)
    assert home.metrics.registry.get_sample_value(
        "plaudit_learner_duels_total", {"outcome": "promoted"}
    )
    assert home.metrics.registry.get_sample_value(
        "plaudit_learner_duel_votes", {"vote": "wins"}
    ) == pytest.approx(17)


def test_the_votes_in_the_ledger_roll_the_challenger_back(home: Home) -> None:
    home.vote(LEFT, 0, 14)
    assert not home.is_on_trial()
    state = home.publisher.state()
    assert (state.live, state.challenger, state.rolled_back) == (1, 0, frozenset({2}))
    assert not state.held


@pytest.mark.parametrize("verdict", [LEFT, RIGHT])
def test_invented_users_of_one_key_do_not_decide_a_trial(
    home: Home, verdict: Comparison.Verdict
) -> None:
    home.vote(verdict, 0, 620, owner="sybil")
    assert home.is_on_trial(), "and they are not enough votes to end it without a decision either"
    votes = home.metrics.registry.get_sample_value(
        "plaudit_learner_duel_votes", {"vote": "wins" if verdict == RIGHT else "losses"}
    )
    assert votes == 6


def test_other_voters_decide_against_the_invented_users_of_one_key(home: Home) -> None:
    home.vote(LEFT, 0, 600, owner="sybil")
    for number in range(600, 630):
        home.vote(RIGHT, number, 1, owner=f"key-{number}")
    assert not home.is_on_trial()
    assert home.publisher.state().live == 2


@pytest.mark.parametrize("trusted", [True, False])
def test_many_people_behind_one_trusted_key_decide_a_trial(home: Home, *, trusted: bool) -> None:
    made = KeyMade(id="key-1", role="user", digest=b"d", owner="app", trusted_users=trusted)
    append_policy_event(home.log, made)
    home.vote(RIGHT, 0, 200, owner="app")
    assert home.is_on_trial() != trusted
    assert home.publisher.state().live == (2 if trusted else 1)


def test_a_challenger_that_a_replica_cannot_load_is_rolled_back(home: Home) -> None:
    append_policy_event(home.log, SwapFailed(replica="a", version=2, serving=1, reason="rank 64"))
    assert not home.is_on_trial()
    assert home.publisher.state().rolled_back == {2}


def test_a_trial_waits_while_publishing_is_on_hold_and_an_operator_may_end_it(home: Home) -> None:
    append_policy_event(home.log, Hold(held=True))
    home.vote(RIGHT, 0, 17)
    assert home.is_on_trial()
    append_policy_event(home.log, Activated(version=1))
    assert not home.is_on_trial()
    assert home.publisher.state().rolled_back == {2}


def test_a_decision_of_a_learner_that_lost_leadership_does_not_count(home: Home) -> None:
    other = Publisher(home.log.path.parent, home.log)
    policies = home.publisher.state()
    other.claim_leadership("another")
    home.publisher.end_trial(policies, TrialResult(promoted=True))
    assert home.publisher.state().challenger == 2
