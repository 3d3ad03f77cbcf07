"""Train a reward model on votes of all kinds."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from learner.data.owner_bound import effective_votes, relative_weights
from learner.data.preferences import PreferenceExample
from learner.data.work import working_on
from learner.models.parameters import trainable_parameters
from learner.reward.batches import build_preference_batches, example_losses
from learner.reward.evaluation import RewardReport, evaluate
from learner.reward.linear import LinearFits, cross_fit, standardise
from learner.reward.model import RewardModel, load_weights
from learner.reward.reliability import Reliabilities
from learner.settings import RewardSettings

_RATES_LEARNING_RATE: Final = 0.02  # of `log_tie` and `offset`
_WARMUP_STEPS: Final = 5
_FINAL_RATE: Final = 0.1  # share of the learning rate at the end


def train_reward(
    model: RewardModel,
    examples: Sequence[PreferenceExample],
    held_out: Sequence[PreferenceExample],
    settings: RewardSettings,
    *,
    seed: int,
    reliabilities: Reliabilities,
    on_epoch: Callable[[RewardReport], None] = lambda _: None,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> RewardReport:
    """Train on `examples` and keep the epoch with the lowest loss on `held_out`.

    The same arguments give the same weights bit for bit on one machine with the same number of
    threads. The held-out figures are slightly optimistic, since they also select the epoch.

    Args:
        model: Reward model to train, in place.
        examples: Training examples.
        held_out: Examples to evaluate on.
        settings: Settings of the reward model.
        seed: Random seed of the order of the examples.
        reliabilities: Reliability of each rater (`learner.reward.probe`).
        on_epoch: Called with the report of each epoch.
        raise_if_stopped: Called before every step; its exception ends the training.

    """
    evaluated = partial(
        evaluate, model, held_out, reliabilities, settings, trained_on=len(examples)
    )
    if effective_votes(examples) < settings.min_train:
        return evaluated(epochs=0)
    initialise_from_linear_fit(model, examples, reliabilities, settings, raise_if_stopped)
    trainer = _RewardTrainer(
        model, examples, reliabilities, settings, seed=seed, raise_if_stopped=raise_if_stopped
    )
    return trainer.train(evaluated, on_epoch)


def initialise_from_linear_fit(
    model: RewardModel,
    examples: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    settings: RewardSettings,
    raise_if_stopped: Callable[[], None] = lambda: None,
) -> None:
    """Set the head, ties and offset to the best fit on the untrained trunk's states.

    Training then does not distort the trunk to suit a random head (Kumar et al. 2022,
    arXiv:2202.10054), and need not learn in a few dozen small steps how often raters call a tie or
    approve.
    """
    states_AH, members = _last_states(model, examples, settings, raise_if_stopped)
    states_AH, mean_H, scale_H = standardise(states_AH, members)
    reliability_E = states_AH.new_tensor([reliabilities.of(example.rater) for example in members])
    fits = LinearFits(states_AH, members, folds=1, raise_if_stopped=raise_if_stopped)
    weights_H1, log_tie = fits.initial_parameters()
    penalty = cross_fit(
        states_AH, members, reliability_E, raise_if_stopped=raise_if_stopped
    ).penalty
    fits.fit((weights_H1, log_tie), reliability_E, penalty)
    with torch.no_grad():
        head_1H = weights_H1.T / scale_H
        model.scalar.head.weight.copy_(head_1H)
        model.scalar.head.bias.copy_(-(head_1H @ mean_H))
        model.log_tie.copy_(log_tie)
        weighted = list(zip(examples, relative_weights(examples), strict=True))
        approvals = sum(weight * sum(example.approvals) for example, weight in weighted)
        count = sum(weight * len(example.approvals) for example, weight in weighted)
        approved = (approvals + 1) / (count + 2)
        model.offset.fill_(-math.log(approved / (1 - approved)))


@torch.no_grad()
def _last_states(
    model: RewardModel,
    examples: Sequence[PreferenceExample],
    settings: RewardSettings,
    raise_if_stopped: Callable[[], None],
) -> tuple[Tensor, list[PreferenceExample]]:
    """Return the state at the last token of each answer, [A, H], and the examples in that order."""
    batches = build_preference_batches(model, examples, settings)
    states = []
    for batch in batches:
        raise_if_stopped()
        with working_on(examples[i] for i in batch.members):
            states.append(model.scalar.states(batch.answers)[batch.answers.last_index_A])
    return torch.cat(states), [examples[i] for batch in batches for i in batch.members]


class _RewardTrainer:
    """The optimizer steps on one reward model."""

    def __init__(
        self,
        model: RewardModel,
        examples: Sequence[PreferenceExample],
        reliabilities: Reliabilities,
        settings: RewardSettings,
        *,
        seed: int,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        self._model, self._examples, self._settings = model, examples, settings
        self._weights = relative_weights(examples)
        self._reliabilities = reliabilities
        self._raise_if_stopped = raise_if_stopped
        self._generator = torch.Generator().manual_seed(seed)
        rates = [model.log_tie, model.offset]
        weights = [p for p in trainable_parameters(model) if all(p is not rate for rate in rates)]
        self._optimizer = AdamW(
            [
                {"params": weights, "weight_decay": settings.weight_decay},
                {"params": rates, "lr": _RATES_LEARNING_RATE, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            fused=True,
        )
        steps = settings.epochs * -(-len(examples) // settings.batch)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min(1.0, (step + 1) / _WARMUP_STEPS) * max(_FINAL_RATE, 1 - step / steps),
        )

    def train(
        self,
        evaluated: Callable[..., RewardReport],
        on_epoch: Callable[[RewardReport], None],
    ) -> RewardReport:
        """Train until the held-out loss stops improving, and load the best epoch's weights.

        Args:
            evaluated: Returns the report of the model after `epochs` epochs.
            on_epoch: Called with the report of each epoch.

        """
        best: RewardReport | None = None
        weights: dict[str, Tensor] = {}
        for epoch in range(self._settings.epochs):
            self._train_epoch()
            report = evaluated(epochs=epoch + 1)
            on_epoch(report)
            if best is None or report.loss < best.loss:
                best, weights = report, _copy_weights(self._model)
            elif report.epochs - best.epochs >= self._settings.patience:
                break
        assert best is not None
        load_weights(self._model, weights)
        return best

    def _train_epoch(self) -> None:
        """Train on all examples once, in random order."""
        order = torch.randperm(len(self._examples), generator=self._generator).tolist()
        for start in range(0, len(order), self._settings.batch):
            self._raise_if_stopped()
            self._backward(order[start : start + self._settings.batch])
            nn.utils.clip_grad_norm_(trainable_parameters(self._model), self._settings.clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._schedule.step()

    def _backward(self, numbers: Sequence[int]) -> None:
        """Add the gradient of the mean weighted loss of the examples with these numbers."""
        examples = [self._examples[i] for i in numbers]
        reliability = [self._reliabilities.of(example.rater) for example in examples]
        for batch in build_preference_batches(self._model, examples, self._settings):
            with working_on(examples[i] for i in batch.members):
                losses_E, _ = example_losses(self._model, batch, reliability)
                weights_E = losses_E.new_tensor([self._weights[numbers[i]] for i in batch.members])
                loss = (losses_E * weights_E).sum() / len(examples)
                loss.backward()  # type: ignore[no-untyped-call]


def _copy_weights(model: RewardModel) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
