"""Opinions explained by what is linear in a model's states of the answers; fitted by L-BFGS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.data.preferences import PreferenceExample
from learner.reward.batches import preference_labels
from learner.reward.reliability import mixture_losses

PENALTIES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
_FOLDS: Final = 8  # of prompts
_STEPS: Final = 40
_TIE: Final = -1.0


def minimise(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Bring the parameters where the loss is least, in at most so many steps.

    Args:
        check: Called before every evaluation; what it raises ends the search.

    """
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        check()
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(evaluate)  # type: ignore[no-untyped-call]


def standardise(
    states_AD: Tensor, examples: Sequence[PreferenceExample]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the states of the examples' answers as deviations, and how that was done.

    From the mean of the answers that somebody approved of or not, where there are any: the fits
    have no offset, and what differs between these and others must not serve as one.

    Returns:
        The states, [A, D], of about length 1 each; what they are deviations from, [D]; and the
        root of D times their standard deviation, [D], by which they were divided.

    """
    approved_M = preference_labels(examples, states_AD.device).approved_M
    mean_D = (states_AD[approved_M] if len(approved_M) else states_AD).mean(0)
    scale_D = states_AD.std(0, correction=0).clamp_min(1e-6) * states_AD.shape[1] ** 0.5
    return (states_AD - mean_D) / scale_D, mean_D, scale_D


class LinearFits:
    """F weights of the states, each fitted to all opinions but those of its fold; or one to all.

    Shapes: A answers, E opinions, D numbers that a state has. How readily people tie is one number
    for all of them.

    Attributes:
        fold_E: The fold of each opinion; those on one prompt are in one fold.

    """

    def __init__(
        self,
        states_AD: Tensor,
        examples: Sequence[PreferenceExample],
        *,
        folds: int = _FOLDS,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the standardised states of the examples' answers, in order; one fold is none."""
        self._states_AD, self._check, self._folds = states_AD, check, folds
        # Each has a copy of all opinions, so that one pass fits them all.
        self._opinions_FE = preference_labels([*examples] * folds, states_AD.device)
        place = {key: at for at, key in enumerate(dict.fromkeys(e.key for e in examples))}
        self.fold_E = torch.tensor(
            [place[e.key] % folds for e in examples], device=states_AD.device
        )
        self._own_FE = self.fold_E == torch.arange(folds, device=states_AD.device)[:, None]
        self._fitted_FE = ~self._own_FE if folds > 1 else self._own_FE

    def begin(self) -> tuple[Tensor, Tensor]:
        """Return the parameters to fit: the weights, [D, F], and log nu of ties."""
        weights_DF = self._states_AD.new_zeros(self._states_AD.shape[1], self._folds)
        return weights_DF.requires_grad_(), self._states_AD.new_tensor(_TIE).requires_grad_()

    def fit(self, parameters: tuple[Tensor, Tensor], reliability_E: Tensor, penalty: float) -> None:
        """Go on from the parameters, in place; those that require no gradient stay.

        Args:
            believed_E: Probability that each opinion is meant.
            penalty: Of the squared weights, which are the scores' inverse variance.

        """

        def loss() -> Tensor:
            losses_FE = mixture_losses(*self._log_likelihoods(*parameters), reliability_E)
            return losses_FE[self._fitted_FE].sum() + penalty / 2 * (parameters[0] ** 2).sum()

        with torch.enable_grad():
            fitted = [p for p in parameters if p.requires_grad]
            minimise(fitted, loss, steps=_STEPS, check=self._check)

    @torch.no_grad()
    def forecast(self, parameters: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return log-likelihoods of examples and their opposites, each by its fold's fit, [E]."""
        meant_FE, opposite_FE = self._log_likelihoods(*parameters)
        return self._by_own_fold(meant_FE), self._by_own_fold(opposite_FE)

    def _by_own_fold(self, values_FE: Tensor) -> Tensor:
        return values_FE.T[self._own_FE.T]

    def _log_likelihoods(self, weights_DF: Tensor, log_tie: Tensor) -> tuple[Tensor, Tensor]:
        scores_FA = (self._states_AD @ weights_DF).T.flatten()
        # No offset: that others approve more often is nothing that an opinion can contradict.
        meant, opposite = self._opinions_FE.log_likelihoods(
            scores_FA, log_tie, torch.zeros_like(log_tie)
        )
        return meant.view(self._folds, -1), opposite.view(self._folds, -1)


@dataclass(frozen=True, slots=True)
class CrossFitResult:
    """How well opinions on other prompts than it was fitted to are explained by a linear fit.

    Attributes:
        penalty: That of it.
        gains_E: How much better each opinion is explained than if all answers were alike, in nats.
        weights_ED: By which each is forecast.

    """

    penalty: float
    gains_E: Tensor
    weights_ED: Tensor


def cross_fit(
    states_AD: Tensor,
    examples: Sequence[PreferenceExample],
    reliability_E: Tensor,
    *,
    penalties: Sequence[float] = PENALTIES,
    check: Callable[[], None] = lambda: None,
) -> CrossFitResult:
    """Explain opinions by linear fits to those on other prompts; with the best of the penalties."""
    fits = LinearFits(states_AD, examples, check=check)

    def losses(parameters: tuple[Tensor, Tensor], penalty: float) -> Tensor:
        fits.fit(parameters, reliability_E, penalty)
        return mixture_losses(*fits.forecast(parameters), reliability_E)

    alike, log_tie = fits.begin()
    chance_E = losses((alike.requires_grad_(False), log_tie), 0.0)
    found = []
    for penalty in penalties:
        parameters = fits.begin()
        found.append((losses(parameters, penalty), penalty, parameters[0].detach()))
    losses_E, penalty, weights_DF = min(found, key=lambda one: one[0].sum().item())
    return CrossFitResult(penalty, chance_E - losses_E, weights_DF.T[fits.fold_E])
