"""A reward model learns from every kind of opinion."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from learner.data.preferences import Example
from learner.models.model import trained
from learner.reward.evaluation import RewardReport, evaluate, laid_out, opinion_losses
from learner.reward.linear import LinearFits, cross_fitted, standardised
from learner.reward.model import RewardModel, put_weights_back
from learner.reward.reliability import Reliabilities
from learner.settings import RewardSettings

_RATES_LEARNING_RATE: Final = 0.02  # of readiness to tie and offset


def begin_at_linear_fit(
    model: RewardModel,
    examples: Sequence[Example],
    reliabilities: Reliabilities,
    settings: RewardSettings,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Set the head to the best that the trunk's states as they are can tell; ties and offset too.

    Training then need not turn the trunk round for a head that was drawn at random (Kumar et al.
    2022, arXiv:2202.10054); nor find out in a few dozen small steps how often people tie and
    approve.
    """
    batches = laid_out(model, examples, settings)
    found = []
    with torch.no_grad():
        for batch in batches:
            check()
            found.append(model.scalar.states(batch.answers)[batch.answers.last_A])
    members = [examples[i] for batch in batches for i in batch.members]
    states_AH, mean_H, scale_H = standardised(torch.cat(found), members)
    believed_E = states_AH.new_tensor([reliabilities.of(example.rater) for example in members])
    fits = LinearFits(states_AH, members, folds=1, check=check)
    weights_H1, log_tie = fits.begin()
    penalty = cross_fitted(states_AH, members, believed_E, check=check).penalty
    fits.fit((weights_H1, log_tie), believed_E, penalty)
    with torch.no_grad():
        head_1H = weights_H1.T / scale_H
        model.scalar.head.weight.copy_(head_1H)
        model.scalar.head.bias.copy_(-(head_1H @ mean_H))
        model.log_tie.copy_(log_tie)
        approvals = [approval for example in examples for approval in example.approvals]
        approved = (sum(approvals) + 1) / (len(approvals) + 2)
        model.offset.fill_(-math.log(approved / (1 - approved)))


class _Training:
    """Epochs of steps on one model."""

    def __init__(
        self,
        model: RewardModel,
        examples: Sequence[Example],
        settings: RewardSettings,
        *,
        seed: int,
        check: Callable[[], None],
    ) -> None:
        self._model, self._examples, self._settings = model, examples, settings
        self._check = check
        self._generator = torch.Generator().manual_seed(seed)
        rates = [model.log_tie, model.offset]
        weights = [p for p in trained(model) if all(p is not rate for rate in rates)]
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
            nn.utils.clip_grad_norm_(trained(self._model), self._settings.clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._schedule.step()

    def _backward(self, examples: Sequence[Example], reliabilities: Reliabilities) -> None:
        raters = [example.rater for example in examples]
        for batch in laid_out(self._model, examples, self._settings):
            losses_E, _ = opinion_losses(self._model, batch, raters, reliabilities)
            (losses_E.sum() / len(examples)).backward()  # type: ignore[no-untyped-call]


def train_reward(
    model: RewardModel,
    examples: Sequence[Example],
    held_out: Sequence[Example],
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
    begin_at_linear_fit(model, examples, reliabilities, settings, check)
    own = _Training(model, examples, settings, seed=seed, check=check)
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
    put_weights_back(model, kept)
    return best
