"""The posterior of a linear model of votes."""

import math
from dataclasses import replace

import pytest
import torch

from learner.data.preferences import PreferenceExample
from learner.data.structure import structures
from learner.reward.linear import LinearFits
from learner.reward.posterior import Posterior, draw_weights, fit_scores, posterior
from learner.reward.reliability import Reliabilities


def thumbs(*approvals: float) -> list[PreferenceExample]:
    return [PreferenceExample(f"{i}", ((1, 2),), (1,), (), (a,)) for i, a in enumerate(approvals)]


def test_a_posterior_of_one_weight_by_hand() -> None:
    """Thumbs on answers with states 1 and -1 that say nothing: w = 0, precision 2/4 + penalty."""
    fits = LinearFits(torch.tensor([[1.0], [-1.0]]), thumbs(1.0, 1.0), folds=1)
    found = posterior(fits, torch.ones(2), penalty=3.0)
    assert found.mean_D.item() == pytest.approx(0.0, abs=1e-5)
    assert found.factor_DD.item() == pytest.approx(math.sqrt(3.5), rel=1e-4)
    # Two fair coins, times the share of the prior's width that the votes leave.
    assert found.log_evidence == pytest.approx(
        2 * math.log(0.5) + 0.5 * math.log(3.0 / 3.5), rel=1e-4
    )


def test_weighted_votes_weigh_as_much_as_their_share() -> None:
    states_AD = torch.tensor([[1.0], [-1.0]])
    votes = thumbs(1.0, 0.0)
    weighted = [votes[0], replace(votes[1], weight=0.25)]
    repeated = posterior(
        LinearFits(torch.cat([states_AD[:1]] * 4 + [states_AD[1:]]), [votes[0]] * 4 + [votes[1]],
                   folds=1),
        torch.ones(5), penalty=4.0,
    )  # fmt: skip
    found = posterior(LinearFits(states_AD, weighted, folds=1), torch.ones(2), penalty=1.0)
    # All votes and the prior count a quarter.
    assert found.mean_D.item() == pytest.approx(repeated.mean_D.item(), rel=1e-4)
    assert 2 * found.factor_DD.item() == pytest.approx(repeated.factor_DD.item(), rel=1e-4)


def test_draws_have_the_mixtures_moments() -> None:
    """Two priors of equal evidence: means 1 and -1, deviations 1/2 and 1/4; a third of none."""
    parts = [
        Posterior(torch.tensor([mean]).double(), torch.tensor([[root]]).double(),
                  torch.tensor(0.0), evidence)
        for mean, root, evidence in ((1.0, 2.0, 0.0), (-1.0, 4.0, 0.0), (50.0, 1.0, -60.0))
    ]  # fmt: skip
    drawn = draw_weights(parts, draws=20_000, seed=0)[0]
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.03)
    assert drawn.var().item() == pytest.approx(1 + (0.25 + 0.0625) / 2, abs=0.03)
    assert torch.equal(drawn, draw_weights(parts, draws=20_000, seed=0)[0])


def test_a_best_length_in_the_middle_is_learned_from_two_hundred_votes() -> None:
    """Raters like 26 words best; the answers have 1 to 60, and their states say nothing."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 61, (400,), generator=generator).tolist()
    states = torch.randn(400 + 5, 4, generator=generator)
    asked = [2, 10, 26, 42, 60]
    texts = [" ".join(f"w{i}" for i in range(count)) for count in (*words, *asked)]
    features = torch.cat([states, structures(["Why?"] * 405, texts)], dim=1)
    likes = [-abs(count - 26) / 5 for count in words]
    chance = torch.rand(200, generator=generator).tolist()
    votes = [
        PreferenceExample(
            f"{i:064x}", ((1, 2), (1, 3)), (1, 1),
            (0, 1) if chance[i] < 1 / (1 + math.exp(likes[2 * i + 1] - likes[2 * i])) else (1, 0),
        )
        for i in range(200)
    ]  # fmt: skip
    scores = fit_scores(features[:400], votes, Reliabilities(), seed=0)[0]
    shortest, short, best, long, longest = scores.scores(features[400:]).mean(1 - 1).tolist()
    assert shortest < short < best > long > longest
