"""Linear models that predict votes from a model's states of the answers, fitted by L-BFGS.

Shapes: A answers, E training examples, D entries of a state, F folds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.data.owner_bound import relative_weights
from learner.data.preferences import PreferenceExample
from learner.reward.batches import preference_labels
from learner.reward.likelihoods import (
    approval_information,
    mixture_losses,
    pair_information,
)

PENALTIES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
_FOLDS: Final = 8  # of prompts
_STEPS: Final = 40
_INITIAL_LOG_TIE: Final = -1.0
_LEAST_DEVIATION: Final = 0.1  # of an entry, as a share of its group's mean deviation


def minimise(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> None:
    """Minimise the loss over the parameters, in place.

    Args:
        parameters: Tensors to change.
        loss: Function that computes the loss from the parameters.
        steps: Maximum number of L-BFGS iterations.
        raise_if_stopped: Called before every evaluation; its exception ends the search.

    """
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        raise_if_stopped()
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(evaluate)  # type: ignore[no-untyped-call]


def standardise(
    states_AD: Tensor,
    examples: Sequence[PreferenceExample],
    groups: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and scale the states of the examples' answers.

    The mean, weighted like the examples, is that of the answers with an approval, if any. The
    linear models have no offset, and the difference between these answers and the others must not
    serve as one.

    An entry that hardly varies is divided by a tenth of its group's mean deviation: it says little
    about these answers, and must not say much about others.

    Args:
        states_AD: States of the examples' answers, in order.
        examples: Training examples.
        groups: Numbers of entries that belong together; by default all do.

    Returns:
        The standardised states, [A, D], of which each group has a length of about 1; the mean
        that was subtracted, [D]; and the divisor, [D], which is the standard deviation times the
        root of the size of the group.

    """
    answer_M = preference_labels(examples, states_AD.device).answer_M
    weights = zip(examples, relative_weights(examples), strict=True)
    weights_A = states_AD.new_tensor([w for example, w in weights for _ in example.sequences])
    if len(answer_M):
        mean_D = _weighted_mean(states_AD[answer_M], weights_A[answer_M])
    else:
        mean_D = _weighted_mean(states_AD, weights_A)
    deviation_D = states_AD.std(0, correction=0)
    sizes = list(groups or [len(deviation_D)])
    scale_D = torch.cat([_scale(part) for part in torch.split(deviation_D, sizes)])
    return (states_AD - mean_D) / scale_D, mean_D, scale_D


def _weighted_mean(states_AD: Tensor, weights_A: Tensor) -> Tensor:
    return (states_AD * weights_A[:, None]).sum(0) / weights_A.sum()


def _scale(deviations_D: Tensor) -> Tensor:
    least = max(1e-6, _LEAST_DEVIATION * deviations_D.mean().item())
    root: float = len(deviations_D) ** 0.5
    return deviations_D.clamp_min(least) * root


class LinearFits:
    """Linear models of all folds, each fitted to the examples outside its fold.

    With a single fold there is one model, fitted to all examples. All folds share one parameter
    of ties.

    Attributes:
        fold_E: Fold of each example; all examples on one prompt are in the same fold.

    """

    def __init__(
        self,
        states_AD: Tensor,
        examples: Sequence[PreferenceExample],
        *,
        folds: int = _FOLDS,
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the fits.

        Args:
            states_AD: Standardised states of the examples' answers, in order.
            examples: Training examples.
            folds: Number of folds; 1 fits one model to all examples.
            raise_if_stopped: Called before every evaluation; its exception ends the search.

        """
        self._states_AD, self._folds = states_AD, folds
        self._raise_if_stopped = raise_if_stopped
        # Every fold has a copy of all labels, so that one pass fits all folds.
        self._labels_FE = preference_labels([*examples] * folds, states_AD.device)
        prompts = {key: at for at, key in enumerate(dict.fromkeys(e.key for e in examples))}
        self.fold_E = torch.tensor(
            [prompts[e.key] % folds for e in examples], device=states_AD.device
        )
        self._in_fold_FE = self.fold_E == torch.arange(folds, device=states_AD.device)[:, None]
        self._fitted_FE = ~self._in_fold_FE if folds > 1 else self._in_fold_FE
        self._weights_E = states_AD.new_tensor(relative_weights(examples))

    def initial_parameters(self) -> tuple[Tensor, Tensor]:
        """Return new parameters: the weights, [D, F], all zero, and log nu of ties, a scalar."""
        weights_DF = self._states_AD.new_zeros(self._states_AD.shape[1], self._folds)
        log_tie = self._states_AD.new_tensor(_INITIAL_LOG_TIE)
        return weights_DF.requires_grad_(), log_tie.requires_grad_()

    def fit(self, parameters: tuple[Tensor, Tensor], reliability_E: Tensor, penalty: float) -> None:
        """Fit the parameters in place, from their present values.

        Args:
            parameters: Weights and log nu; those that require no gradient are not changed.
            reliability_E: Probability that each example is meant.
            penalty: Factor of half the squared weights: the inverse variance of their prior.

        """

        def loss() -> Tensor:
            total = self._total_loss(parameters, reliability_E)
            return total + penalty / 2 * (parameters[0] ** 2).sum()

        with torch.enable_grad():
            fitted = [p for p in parameters if p.requires_grad]
            minimise(fitted, loss, steps=_STEPS, raise_if_stopped=self._raise_if_stopped)

    @torch.no_grad()
    def total_loss(self, parameters: tuple[Tensor, Tensor], reliability_E: Tensor) -> float:
        """Return the weighted loss of all votes that were fitted, without the penalty, in nats."""
        return self._total_loss(parameters, reliability_E).item()

    def _total_loss(self, parameters: tuple[Tensor, Tensor], reliability_E: Tensor) -> Tensor:
        losses_FE = mixture_losses(*self._log_likelihoods(*parameters), reliability_E)
        return (losses_FE * self._weights_E)[self._fitted_FE].sum()

    @torch.no_grad()
    def precision(
        self, parameters: tuple[Tensor, Tensor], reliability_E: Tensor, penalty: float
    ) -> Tensor:
        """Return the inverse of the weights' posterior covariance by Laplace's method, [D, D].

        It is the Fisher information of the votes about the weights plus that of the prior, at the
        fitted weights of a single model (`folds=1`), in float64. The readiness to tie counts as
        known.
        """
        weights_DF, log_tie = parameters
        labels, states_AD = self._labels_FE, self._states_AD
        scores_A = states_AD @ weights_DF[:, 0]
        pairs_PD = states_AD[labels.first_P] - states_AD[labels.second_P]
        pair_weights_P = (
            labels.weights_P
            * self._weights_E[labels.example_P]
            * pair_information(
                labels.differences(scores_A), log_tie, reliability_E[labels.example_P]
            )
        )
        approved_MD = states_AD[labels.answer_M]
        approval_weights_M = (
            labels.weights_M
            * self._weights_E[labels.example_M]
            * approval_information(scores_A[labels.answer_M], reliability_E[labels.example_M])
        )
        rows_ND = torch.cat([pairs_PD, approved_MD]).double()
        weights_N = torch.cat([pair_weights_P, approval_weights_M]).double()
        prior_DD = penalty * torch.eye(rows_ND.shape[1], dtype=rows_ND.dtype, device=rows_ND.device)
        return rows_ND.T @ (weights_N[:, None] * rows_ND) + prior_DD

    @torch.no_grad()
    def predict(self, parameters: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return log-likelihoods of the examples and of their opposites, both [E].

        Each example is predicted by the model of its fold, which was not fitted to it.
        """
        meant_FE, opposite_FE = self._log_likelihoods(*parameters)
        return self._select_fold(meant_FE), self._select_fold(opposite_FE)

    def _select_fold(self, values_FE: Tensor) -> Tensor:
        return values_FE.T[self._in_fold_FE.T]

    def _log_likelihoods(self, weights_DF: Tensor, log_tie: Tensor) -> tuple[Tensor, Tensor]:
        scores_FA = (self._states_AD @ weights_DF).T.flatten()
        # No offset: a rater who approves less often than others contradicts nobody.
        meant, opposite = self._labels_FE.log_likelihoods(
            scores_FA, log_tie, torch.zeros_like(log_tie)
        )
        return meant.view(self._folds, -1), opposite.view(self._folds, -1)


@dataclass(frozen=True, slots=True)
class CrossFitResult:
    """How well linear models predict examples on prompts that they were not fitted to.

    Attributes:
        penalty: Penalty with the lowest loss.
        gains_E: Log-likelihood of each example minus that under equal scores, in nats.
        weights_ED: Weights that predict each example.

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
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> CrossFitResult:
    """Predict each example by a linear model of the other folds, with the best penalty.

    Args:
        states_AD: Standardised states of the examples' answers, in order.
        examples: Training examples.
        reliability_E: Probability that each example is meant.
        penalties: Penalties to choose from.
        raise_if_stopped: Called before every evaluation; its exception ends the search.

    """
    fits = LinearFits(states_AD, examples, raise_if_stopped=raise_if_stopped)

    def losses(parameters: tuple[Tensor, Tensor], penalty: float) -> Tensor:
        fits.fit(parameters, reliability_E, penalty)
        return mixture_losses(*fits.predict(parameters), reliability_E)

    shares_E = states_AD.new_tensor(relative_weights(examples))
    uniform_weights, log_tie = fits.initial_parameters()
    chance_E = losses((uniform_weights.requires_grad_(False), log_tie), 0.0)
    found = []
    for penalty in penalties:
        parameters = fits.initial_parameters()
        found.append((losses(parameters, penalty), penalty, parameters[0].detach()))
    losses_E, penalty, weights_DF = min(
        found, key=lambda result: (result[0] * shares_E).sum().item()
    )
    return CrossFitResult(penalty, chance_E - losses_E, weights_DF.T[fits.fold_E])
