"""A reward model learns from every kind of opinion."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from learner.data.preferences import PreferenceExample
from learner.models.parameters import trainable_parameters
from learner.reward.evaluation import (
    RewardReport,
    build_preference_batches,
    evaluate,
    example_losses,
)
from learner.reward.linear import LinearFits, cross_fit, standardise
from learner.reward.model import RewardModel, load_weights
from learner.reward.reliability import Reliabilities
from learner.settings import RewardSettings

_RATES_LEARNING_RATE: Final = 0.02  # of readiness to tie and offset


def initialise_from_linear_fit(
    model: RewardModel,
    examples: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    settings: RewardSettings,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Set the head to the best that the trunk's states as they are can tell; ties and offset too.

    Training then need not turn the trunk round for a head that was drawn at random (Kumar et al.
    2022, arXiv:2202.10054); nor find out in a few dozen small steps how often people tie and
    approve.
    """
    batches = build_preference_batches(model, examples, settings)
    found = []
    with torch.no_grad():
        for batch in batches:
            check()
            found.append(model.scalar.states(batch.answers)[batch.answers.last_index_A])
    members = [examples[i] for batch in batches for i in batch.members]
    states_AH, mean_H, scale_H = standardise(torch.cat(found), members)
    reliability_E = states_AH.new_tensor([reliabilities.of(example.rater) for example in members])
    fits = LinearFits(states_AH, members, folds=1, check=check)
    weights_H1, log_tie = fits.begin()
    penalty = cross_fit(states_AH, members, reliability_E, check=check).penalty
    fits.fit((weights_H1, log_tie), reliability_E, penalty)
    with torch.no_grad():
        head_1H = weights_H1.T / scale_H
        model.scalar.head.weight.copy_(head_1H)
        model.scalar.head.bias.copy_(-(head_1H @ mean_H))
        model.log_tie.copy_(log_tie)
        approvals = [approval for example in examples for approval in example.approvals]
        approved = (sum(approvals) + 1) / (len(approvals) + 2)
        model.offset.fill_(-math.log(approved / (1 - approved)))


class _RewardTrainer:
    """Epochs of steps on one model."""

    def __init__(
        self,
        model: RewardModel,
        examples: Sequence[PreferenceExample],
        settings: RewardSettings,
        *,
        seed: int,
        check: Callable[[], None],
    ) -> None:
        self._model, self._examples, self._settings = model, examples, settings
        self._check = check
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
            self._optimizer, lambda step: min(1.0, (step + 1) / 5) * max(0.1, 1 - step / steps)
        )

    def epoch(self, reliabilities: Reliabilities) -> None:
        """Go through all opinions once."""
        order = torch.randperm(len(self._examples), generator=self._generator).tolist()
        for start in range(0, len(order), self._settings.batch):
            self._check()
            self._backward(
                [self._examples[i] for i in order[start : start + self._settings.batch]],
                reliabilities,
            )
            nn.utils.clip_grad_norm_(trainable_parameters(self._model), self._settings.clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._schedule.step()

    def _backward(
        self, examples: Sequence[PreferenceExample], reliabilities: Reliabilities
    ) -> None:
        raters = [example.rater for example in examples]
        for batch in build_preference_batches(self._model, examples, self._settings):
            losses_E, _ = example_losses(self._model, batch, raters, reliabilities)
            (losses_E.sum() / len(examples)).backward()  # type: ignore[no-untyped-call]


def train_reward(
    model: RewardModel,
    examples: Sequence[PreferenceExample],
    held_out: Sequence[PreferenceExample],
    settings: RewardSettings,
    *,
    seed: int,
    reliabilities: Reliabilities,
    on_epoch: Callable[[RewardReport], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> RewardReport:
    """Train on `examples`; keep the epoch that does best on `held_out`.

    The same arguments give the same weights bit for bit (one machine and number of threads).
    The held-out figures are a little optimistic, since they also chose the epoch.

    Args:
        reliabilities: How far each rater is trusted (`learner.reward.probe`).
        on_epoch: Told how each epoch's model does.
        check: Called before every step; what it raises stops the training.

    """
    if len(examples) < settings.min_train:
        return evaluate(
            model, held_out, reliabilities, settings, trained_on=len(examples), epochs=0
        )
    initialise_from_linear_fit(model, examples, reliabilities, settings, check)
    own = _RewardTrainer(model, examples, settings, seed=seed, check=check)
    best: RewardReport | None = None
    kept: dict[str, Tensor] = {}
    for epoch in range(settings.epochs):
        own.epoch(reliabilities)
        report = evaluate(
            model, held_out, reliabilities, settings, trained_on=len(examples), epochs=epoch + 1
        )
        on_epoch(report)
        if best is None or report.loss < best.loss:
            best = report
            kept = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        elif report.epochs - best.epochs >= settings.patience:
            break
    assert best is not None
    load_weights(model, kept)
    return best
