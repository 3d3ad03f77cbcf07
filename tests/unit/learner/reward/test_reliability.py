"""The reliability of raters: estimates by hand, and who is found to contradict the others."""

import math
from dataclasses import replace

import pytest

from learner.reward.reliability import Prediction, Reliabilities, estimate


def test_votes_without_a_rater_are_meant_and_unknown_raters_have_the_prior() -> None:
    known = Reliabilities({"liar": 0.2, "friend": 0.9})
    assert (known.of(""), known.of("stranger"), known.of("liar")) == (1.0, 0.9, 0.2)
    assert (known.weight(""), known.weight("liar")) == (1.0, 0.0)
    assert known.weight("friend") == pytest.approx(0.8)
    assert known.count_unreliable() == 1


def prediction(rater: str, advantage: float) -> Prediction:
    """Return the prediction of a vote that is likelier than its opposite by `advantage` nats."""
    return Prediction(rater, -math.log1p(math.exp(-advantage)), -math.log1p(math.exp(advantage)))


def test_raters_who_contradict_the_predictions_are_found() -> None:
    predictions = [prediction("friend", 1.5 if i % 5 else -1.5) for i in range(50)]
    predictions += [prediction("liar", -1.5 if i % 5 else 1.5) for i in range(50)]
    predictions += [prediction("coin", 1.5 if i % 2 else -1.5) for i in range(50)]
    predictions += [prediction("", -3.0)] * 50
    found, _ = estimate(predictions)
    assert found.of("friend") > 0.9
    assert found.of("liar") < 0.35
    assert 0.4 < found.of("coin") < 0.7
    assert found.of("") == 1.0


def test_a_single_vote_makes_no_rater_unreliable() -> None:
    assert estimate([prediction("new", -2.0)])[0].of("new") > 0.8


def test_the_posterior_of_one_vote_by_hand() -> None:
    """E[r] = .9 and E[r^2] = .825 under Beta(4.5, .5); the likelihood is .2 r + .8 (1 - r)."""
    found, evidence = estimate([Prediction("one", math.log(0.2), math.log(0.8))])
    assert evidence == pytest.approx(math.log(0.2 * 0.9 + 0.8 * 0.1), abs=1e-4)
    squared = 0.9 * 5.5 / 6
    mean = (0.2 * squared + 0.8 * (0.9 - squared)) / (0.2 * 0.9 + 0.8 * 0.1)
    assert found.of("one") == pytest.approx(mean, abs=1e-4)


def test_predicting_nothing_has_more_evidence_than_being_confident_and_wrong() -> None:
    sure = [prediction("one", 2.0 if i % 2 else -2.0) for i in range(20)]
    assert estimate(sure)[1] < estimate([prediction("one", 0.0)] * 20)[1]
    right = [prediction("one", 2.0)] * 20
    assert estimate(right)[1] > estimate([prediction("one", 0.0)] * 20)[1]


def test_the_largest_change_between_two_estimates() -> None:
    first, second = Reliabilities({"a": 0.9, "b": 0.5}), Reliabilities({"a": 0.8, "b": 0.55})
    assert second.change(first) == pytest.approx(0.1)
    assert Reliabilities({"new": 0.7}).change(Reliabilities()) == pytest.approx(0.2)
    assert Reliabilities().change(first) == 0


def test_ties_are_no_evidence_of_reliability() -> None:
    assert estimate([Prediction("tied", -1.0, -1.0)] * 100)[0].of("tied") == pytest.approx(0.9)


def test_a_weighted_vote_tells_as_much_as_its_share() -> None:
    whole = [Prediction("one", math.log(0.2), math.log(0.8)), Prediction("", -1.0, -2.0)]
    halves = [replace(prediction, weight=0.5) for prediction in whole * 2]
    (found, evidence), (same, again) = estimate(whole), estimate(halves)
    assert same.of("one") == pytest.approx(found.of("one"))
    assert again == pytest.approx(evidence)
