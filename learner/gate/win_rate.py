"""The win rate of a candidate among people, as far as it is known.

Two things are not known: what people prefer, since the judge saw few of their votes, and how the
policies answer other prompts. The interval has both: every draw takes weights from the judge's
posterior and weights of the prompts from the Bayesian bootstrap (Rubin 1981).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.reward.likelihoods import davidson_log_probs

_TAIL: Final = 0.05  # probability outside each one-sided bound


@dataclass(frozen=True, slots=True)
class WinRate:
    """A win rate with its one-sided 95% bounds; a tie counts as half a win."""

    mean: float
    lower: float
    upper: float


def win_probabilities(differences_SN: Tensor, log_tie: Tensor) -> Tensor:
    """Return the probability of a win plus half that of a tie, [S, N].

    Args:
        differences_SN: Calibrated differences of the scores of N pairs of answers, S draws each.
        log_tie: log nu of Davidson's model, a scalar.

    """
    win, _, tie = davidson_log_probs(differences_SN, log_tie).exp().unbind(-1)
    return win + tie / 2


def estimate_win_rate(
    probabilities_SN: Tensor, prompts: Sequence[Hashable], *, seed: int
) -> WinRate:
    """Return the mean win rate over the prompts, and its bounds over judges and prompts.

    Args:
        probabilities_SN: Probability that people prefer the candidate's answer, for S judges
            drawn from the posterior and N pairs of answers.
        prompts: Prompt of each pair; pairs on equal prompts are not independent.
        seed: Random seed of the weights of the prompts.

    """
    numbers = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompts))}
    prompt_N = torch.tensor([numbers[prompt] for prompt in prompts])
    generator = torch.Generator().manual_seed(seed)
    uniform_SK = torch.rand(
        len(probabilities_SN), len(numbers), generator=generator, dtype=torch.float64
    )
    weights_SN = -(1 - uniform_SK).log()[:, prompt_N]  # exponential, so that shares are Dirichlet
    probabilities_SN = probabilities_SN.double().cpu()
    rates_S = (weights_SN * probabilities_SN).sum(-1) / weights_SN.sum(-1)
    bounds = torch.tensor([_TAIL, 1 - _TAIL], dtype=torch.float64)
    lower, upper = rates_S.quantile(bounds).tolist()
    return WinRate(probabilities_SN.mean().item(), lower, upper)
