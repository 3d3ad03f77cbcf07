"""The reward model: a language model's trunk with a scalar head, trained on every kind of opinion.

The judge is a second one of these, trained on other prompts' votes. Left out: ensembles.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from learner.answers import AnswerBatch, Answered, can_share, lay_out
from learner.batching import parts
from learner.calibration import Judged, calibration
from learner.critic import SeparateCritic, ValueHead
from learner.linear import PENALTIES, LinearFits, best_penalty, standardised
from learner.model import ScalarModel, hidden_size, trained, twin
from learner.opinions import OpinionBatch, lay_out_opinions
from learner.preferences import Example
from learner.reliability import Reliabilities, mixture_losses
from learner.settings import Dtype, PPOSettings, RewardSettings
from learner.statistics import mean_lower, wilson_lower

_RATES_LEARNING_RATE: Final = 0.02  # of readiness to tie and offset
_CHANCE: Final = 1e6  # penalty under which no score differs from another
_NO_BOUND: Final = 1e3  # nats an opinion, in place of infinity, which JSON does not have


class RewardModel(nn.Module):
    """A score for a prompt with its answer, read at the last real token, normalised.

    Beside the scores it learns how ready people are to call a tie (Davidson's nu) and the score
    above which they approve of an answer shown alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: PreTrainedModel, *, pad: int, seed: int, dtype: Dtype = "float32"
    ) -> None:
        """Take the trunk of `model` (not copied)."""
        super().__init__()
        self.scalar = ScalarModel(model, seed, dtype)
        self.log_tie = nn.Parameter(torch.tensor(-1.0))
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.pad = pad
        self.shares = can_share(model.config)
        self.to(model.device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mean.device

    def forward(self, batch: AnswerBatch) -> Tensor:
        """Give a score before normalisation for each answer, [A], with gradient."""
        scores_A: Tensor = self.scalar(batch)[batch.last_A]
        return scores_A

    @torch.no_grad()
    def score(
        self, rows: Sequence[Answered], *, micro_tokens: int = 4096, normal: bool = True
    ) -> Tensor:
        """Give the scores of all answers in order, without gradient; `normal` or as trained."""
        found: dict[int, Tensor] = {}
        for part in parts([row.length for row in rows], micro_tokens):
            own = [rows[i] for i in part]
            scores_A = self(lay_out(own, pad=self.pad, device=self.device))
            scores = scores_A.split([len(row.answers) for row in own])
            found.update(zip(part, scores, strict=True))
        flat = torch.cat([found[i] for i in range(len(rows))])
        return (self.normal(flat) if normal else flat).cpu()

    def normal(self, scores_A: Tensor) -> Tensor:
        """Give scores as `normalise` has fixed their scale."""
        return (scores_A - self.mean) / self.std

    def normalise(self, rows: Sequence[Answered]) -> None:
        """Make the scores of these reference answers have mean 0 and deviation 1."""
        scores = self.score(rows, normal=False)
        self.mean.copy_(scores.mean())
        self.std.copy_(scores.std().clamp_min(1e-4))


@dataclass(frozen=True, slots=True)
class RewardReport:
    """How a reward model did on held-out opinions.

    Attributes:
        trained_on: Opinions in training.
        pairs: Held-out pairs of which one was preferred.
        accuracy: Share of them that it orders as people did; raters count as far as trusted.
        lower_bound: Of the accuracy, Wilson's one-sided 95 %.
        temperature: By which differences of scores are divided to be calibrated.
        calibration_error: Of the calibrated probability that the first is preferred.
        uncalibrated_error: The same without the temperature.
        loss: Held-out loss, in nats an opinion.
        gain: How much better scores, once calibrated, explain held-out opinions than if all
            answers were alike, in nats an opinion.
        gain_lower_bound: Of it, one-sided 95 %; above 0 the model is not guessing.
        epochs: After which it was kept; 0 where there was too little to train on.
        doubted_raters: Who contradict the crowd more often than not.

    """

    trained_on: int
    pairs: int
    accuracy: float
    lower_bound: float
    temperature: float
    calibration_error: float
    uncalibrated_error: float
    loss: float
    gain: float
    gain_lower_bound: float
    epochs: int
    doubted_raters: int


def opinion_losses(
    model: RewardModel, batch: OpinionBatch, raters: Sequence[str], reliabilities: Reliabilities
) -> tuple[Tensor, Tensor]:
    """Give each opinion's loss, [E], and the scores, [A]."""
    scores_A = model(batch.answers)
    meant_E, opposite_E = batch.opinions.log_likelihoods(scores_A, model.log_tie, model.offset)
    believed_E = meant_E.new_tensor([reliabilities.of(raters[i]) for i in batch.members])
    return mixture_losses(meant_E, opposite_E, believed_E), scores_A


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
    batches = _laid_out(model, examples, settings)
    found = []
    with torch.no_grad():
        for batch in batches:
            check()
            found.append(model.scalar.states(batch.answers)[batch.answers.last_A])
    states_AH, mean_H, scale_H = standardised(torch.cat(found))
    members = [examples[i] for batch in batches for i in batch.members]
    believed_E = states_AH.new_tensor([reliabilities.of(example.rater) for example in members])
    fits = LinearFits(states_AH, members, folds=1, check=check)
    weights_H1, log_tie = fits.begin()
    fits.fit((weights_H1, log_tie), believed_E, best_penalty(states_AH, members, believed_E, check))
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
        for batch in _laid_out(self._model, examples, self._settings):
            losses_E, _ = opinion_losses(self._model, batch, raters, reliabilities)
            (losses_E.sum() / len(examples)).backward()  # type: ignore[no-untyped-call]


def _laid_out(
    model: RewardModel, examples: Sequence[Example], settings: RewardSettings
) -> list[OpinionBatch]:
    return lay_out_opinions(
        examples,
        micro_tokens=settings.micro_tokens,
        shared=model.shares,
        pad=model.pad,
        device=model.device,
    )


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
        reliabilities: How far each rater is trusted (`learner.probe`).
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
    _put_back(model, kept)
    return best


@torch.no_grad()
def _put_back(model: RewardModel, kept: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in kept:
            parameter.copy_(kept[name])


@torch.no_grad()
def evaluate(
    model: RewardModel,
    held_out: Sequence[Example],
    reliabilities: Reliabilities,
    settings: RewardSettings,
    *,
    trained_on: int,
    epochs: int,
) -> RewardReport:
    """Measure a reward model on held-out opinions; those of doubted raters count less."""
    raters = [example.rater for example in held_out]
    loss = 0.0
    told = []
    judged = []  # difference of scores, whether the first was preferred, weight, prompt
    batches = _laid_out(model, held_out, settings)
    for batch in batches:
        opinions = batch.opinions
        losses_E, scores_A = opinion_losses(model, batch, raters, reliabilities)
        loss += losses_E.sum().item()
        told.append(scores_A)
        for difference, outcome, of in zip(
            opinions.differences(scores_A).tolist(),
            opinions.outcomes_P.tolist(),
            opinions.of_P.tolist(),
            strict=True,
        ):
            example = held_out[batch.members[of]]
            weight = reliabilities.weight(example.rater)
            if outcome != 2 and weight > 0:
                judged.append(Judged(difference, outcome == 0, weight, example.key))
    right = sum(one.weight * ((one.difference > 0) == one.first_won) for one in judged)
    total, squares = sum(o.weight for o in judged), sum(o.weight**2 for o in judged)
    accuracy = right / max(total, 1e-9)
    trials = total * total / max(squares, 1e-9)  # Kish's effective number
    temperature, calibrated, plain = calibration(judged)
    gains = _gains(told, [held_out[i] for b in batches for i in b.members], reliabilities)
    return RewardReport(
        trained_on=trained_on,
        pairs=len(judged),
        accuracy=accuracy,
        lower_bound=wilson_lower(accuracy * trials, trials),
        temperature=temperature,
        calibration_error=calibrated,
        uncalibrated_error=plain,
        loss=loss / max(1, len(held_out)),
        gain=sum(gain for _, gain in gains) / max(1, len(held_out)),
        gain_lower_bound=max(mean_lower(gains), -_NO_BOUND),
        epochs=epochs,
        doubted_raters=reliabilities.doubted(),
    )


def _gains(
    scores: Sequence[Tensor], examples: Sequence[Example], reliabilities: Reliabilities
) -> list[tuple[str, float]]:
    """Give how much better each opinion is explained by the scores than by chance, by prompt.

    The scale of the scores, and how often people tie, are fitted to the opinions on the other
    prompts, so that nothing is gained by them. Scores that are the wrong way round gain nothing.
    """
    if not examples:
        return []
    states_A1 = standardised(torch.cat([*scores])[:, None])[0]
    believed_E = states_A1.new_tensor([reliabilities.of(example.rater) for example in examples])
    fits = LinearFits(states_A1, examples)
    chance, calibrated = fits.begin(), fits.begin()
    losses = []
    for parameters, penalty in ((chance, _CHANCE), (calibrated, PENALTIES[0])):
        fits.fit(parameters, believed_E, penalty)
        losses.append(mixture_losses(*fits.forecast(parameters), believed_E))
    right_way_E = fits.weights(calibrated).squeeze(-1) > 0
    gains_E = torch.where(right_way_E, losses[0] - losses[1], 0)
    return list(zip((example.key for example in examples), gains_E.tolist(), strict=True))


def new_critic(
    policy: PreTrainedModel, reward: RewardModel, settings: PPOSettings
) -> ValueHead | SeparateCritic:
    """Give the critic that the settings ask for."""
    if settings.separate_critic:
        return critic_of(reward)
    return ValueHead(hidden_size(policy)).to(policy.device)


def critic_of(reward: RewardModel) -> SeparateCritic:
    """Copy a reward model into a critic that starts from its normalised scores."""
    scalar = twin(reward.scalar)
    with torch.no_grad():
        scalar.head.weight.div_(reward.std)
        scalar.head.bias.sub_(reward.mean).div_(reward.std)
    return SeparateCritic(scalar)


def trained_state(model: RewardModel) -> dict[str, Tensor]:
    """Give what training and normalising changed, to save."""
    changed = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return changed | {"mean": model.mean, "std": model.std}


def put_back(model: RewardModel, state: dict[str, Tensor]) -> None:
    """Undo `trained_state` on a reward model made from the same language model."""
    _put_back(model, state)
    model.mean.copy_(state["mean"])
    model.std.copy_(state["std"])
