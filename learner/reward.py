"""The reward model: a language model's trunk with a scalar head, trained on every kind of opinion.

The judge is a second one of these, trained on other prompts' votes. Left out: ensembles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from learner.batching import pad_right, parts
from learner.losses import pointwise_loss, ranking_loss
from learner.model import ScalarModel, autocast, trained, twin
from learner.preferences import Example
from learner.reliability import Forecast, Reliabilities, estimate, mixture_loss
from learner.sampler import Sample
from learner.settings import Dtype, RewardSettings
from learner.statistics import calibration_error, wilson_lower

_AGREED: Final = 0.05  # scouts' estimates of every rater


class RewardModel(nn.Module):
    """A score for a prompt with its answer, read at the last real token, normalised.

    Beside the scores it learns how ready people are to call a tie (Davidson's nu) and the score
    above which they approve of an answer shown alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: PreTrainedModel, *, pad: int, seed: int) -> None:
        """Take the trunk of `model` (not copied)."""
        super().__init__()
        self.scalar = ScalarModel(model, seed)
        self.log_tie = nn.Parameter(torch.tensor(-1.0))
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.pad = pad

    def raw(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Give scores before normalisation, [sequences], with gradient."""
        ids_BT, mask_BT = pad_right(sequences, self.pad)
        values_BT = self.scalar(ids_BT, mask_BT)
        last_B1 = mask_BT.long().sum(-1, keepdim=True) - 1
        scores_B: Tensor = values_BT.gather(-1, last_B1).squeeze(-1)
        return scores_B

    @torch.no_grad()
    def score(
        self, sequences: Sequence[Sequence[int]], *, micro_tokens: int = 4096, normal: bool = True
    ) -> Tensor:
        """Give scores, [sequences], without gradient; `normal` or as trained."""
        scores = torch.zeros(len(sequences))
        for part in parts([len(s) for s in sequences], micro_tokens):
            scores[part] = self.raw([sequences[i] for i in part])
        return (scores - self.mean) / self.std if normal else scores

    def normalise(self, sequences: Sequence[Sequence[int]]) -> None:
        """Make the scores of these reference answers have mean 0 and deviation 1."""
        scores = self.score(sequences, normal=False)
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
        calibration_error: Of the probability that the first is preferred.
        loss: Held-out loss, in nats an opinion.
        epochs: After which it was kept; 0 where there was too little to train on.
        doubted_raters: Who contradict the crowd more often than not.

    """

    trained_on: int
    pairs: int
    accuracy: float
    lower_bound: float
    calibration_error: float
    loss: float
    epochs: int
    doubted_raters: int


def log_likelihoods(model: RewardModel, example: Example, scores_K: Tensor) -> Tensor:
    """Give the log-likelihoods of an opinion and of its opposite, [2], in nats.

    What has ranks and approval counts for both. The opposite of a tie is that tie.
    """
    both = scores_K.new_zeros(2)
    if example.ranks:
        ranks_K = torch.tensor(example.ranks)
        both = both - torch.stack(
            [ranking_loss(scores_K, r, model.log_tie) for r in (ranks_K, -ranks_K)]
        )
    if example.approvals:
        wanted_K = torch.tensor(example.approvals)
        both = both - torch.stack(
            [pointwise_loss(scores_K, t, model.offset) for t in (wanted_K, 1 - wanted_K)]
        )
    return both


def example_loss(
    model: RewardModel, batch: Sequence[Example], reliabilities: Reliabilities
) -> tuple[Tensor, list[Forecast]]:
    """Give the mean loss of a batch of opinions, and how likely each was."""
    scores = model.raw([s for example in batch for s in example.sequences])
    own = torch.split(scores, [len(example.sequences) for example in batch])
    both = [log_likelihoods(model, e, o) for e, o in zip(batch, own, strict=True)]
    losses = [
        mixture_loss(meant, opposite, reliabilities.of(example.rater))
        for example, (meant, opposite) in zip(batch, both, strict=True)
    ]
    forecasts = [
        Forecast(example.rater, (meant - opposite).item())
        for example, (meant, opposite) in zip(batch, both, strict=True)
    ]
    return torch.stack(losses).mean(), forecasts


class _Training:
    """Epochs of steps on one model."""

    def __init__(
        self,
        model: RewardModel,
        examples: Sequence[Example],
        settings: RewardSettings,
        *,
        seed: int,
        dtype: Dtype,
        check: Callable[[], None],
    ) -> None:
        self._model, self._examples, self._settings = model, examples, settings
        self._dtype: Dtype = dtype
        self._check = check
        self._generator = torch.Generator().manual_seed(seed)
        self._optimizer = AdamW(
            trained(model), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        steps = settings.epochs * -(-len(examples) // settings.batch)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min(1.0, (step + 1) / 5) * max(0.1, 1 - step / steps)
        )

    def epoch(self, reliabilities: Reliabilities) -> list[Forecast]:
        """Go through all opinions once; give how likely each was before its step."""
        forecasts = []
        order = torch.randperm(len(self._examples), generator=self._generator).tolist()
        for start in range(0, len(order), self._settings.batch):
            self._check()
            batch = [self._examples[i] for i in order[start : start + self._settings.batch]]
            with autocast(self._dtype):
                loss, own = example_loss(self._model, batch, reliabilities)
            forecasts += own
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained(self._model), self._settings.clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._schedule.step()
        return forecasts


def train_reward(
    model: RewardModel,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    settings: RewardSettings,
    *,
    seed: int,
    dtype: Dtype = "float32",
    on_epoch: Callable[[RewardReport], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> RewardReport:
    """Train on `examples`; keep the epoch that does best on `held_out`.

    Before, scouts are trained for an epoch each to learn how far each rater can be trusted, every
    one with what the last one found, until they agree.
    The same arguments give the same weights bit for bit (one machine and number of threads).
    The held-out figures are a little optimistic, since they also chose the epoch.

    Args:
        on_epoch: Told how each epoch's model does.
        check: Called before every step; what it raises stops the training.

    """
    if len(examples) < settings.min_train:
        return evaluate(model, held_out, Reliabilities(), trained_on=len(examples), epochs=0)

    def training(of: RewardModel) -> _Training:
        return _Training(of, examples, settings, seed=seed, dtype=dtype, check=check)

    reliabilities = _reliabilities(lambda: training(twin(model)), examples, settings)
    own = training(model)
    best: RewardReport | None = None
    kept: dict[str, Tensor] = {}
    for epoch in range(settings.epochs):
        own.epoch(reliabilities)
        report = evaluate(
            model, held_out, reliabilities, trained_on=len(examples), epochs=epoch + 1
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


def _reliabilities(
    scout: Callable[[], _Training], examples: Sequence[Example], settings: RewardSettings
) -> Reliabilities:
    found = Reliabilities()
    if len({example.rater for example in examples} - {""}) < 2:
        return found  # no crowd to contradict
    for _ in range(settings.scouts):
        last, found = found, estimate(scout().epoch(found))
        if found.change(last) < _AGREED:
            break
    return found


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
    *,
    trained_on: int,
    epochs: int,
) -> RewardReport:
    """Measure a reward model on held-out opinions; those of doubted raters count less."""
    flat = model.score([s for e in held_out for s in e.sequences], normal=False)
    loss = 0.0
    judged: list[tuple[float, bool, float]] = []  # probability, outcome, weight
    for example, own_K in zip(
        held_out, torch.split(flat, [len(e.sequences) for e in held_out]), strict=True
    ):
        meant, opposite = log_likelihoods(model, example, own_K)
        loss += mixture_loss(meant, opposite, reliabilities.of(example.rater)).item()
        weight = reliabilities.weight(example.rater)
        judged += [(p, o, weight) for p, o in _pairs(example, own_K) if weight > 0]
    right = sum(w * ((p > 0.5) == o) for p, o, w in judged)
    total, squares = sum(w for *_, w in judged), sum(w * w for *_, w in judged)
    accuracy = right / max(total, 1e-9)
    trials = total * total / max(squares, 1e-9)  # Kish's effective number
    return RewardReport(
        trained_on=trained_on,
        pairs=len(judged),
        accuracy=accuracy,
        lower_bound=wilson_lower(accuracy * trials, trials),
        calibration_error=calibration_error([p for p, *_ in judged], [o for _, o, _ in judged]),
        loss=loss / max(1, len(held_out)),
        epochs=epochs,
        doubted_raters=reliabilities.doubted(),
    )


def _pairs(example: Example, scores_K: Tensor) -> list[tuple[float, bool]]:
    """Give, for each pair that is no tie, the probability that the first wins, and whether it did.

    The opinions about answers shown alone give pairs too: approved of against the neutral offset
    would count the offset's own calibration, so they are left to the loss.
    """
    if not example.ranks:
        return []
    found = []
    for first in range(len(scores_K)):
        for second in range(first + 1, len(scores_K)):
            if example.ranks[first] == example.ranks[second]:
                continue
            difference = scores_K[first] - scores_K[second]
            probability = torch.sigmoid(difference).item()  # Davidson's, given that it is no tie
            found.append((probability, example.ranks[first] < example.ranks[second]))
    return found


def sequences_of(samples: Sequence[Sample]) -> list[tuple[int, ...]]:
    """Give prompt and answer of each sample as one sequence."""
    return [(*s.prompt, *s.token_ids) for s in samples]


def critic_of(reward: RewardModel) -> ScalarModel:
    """Copy a reward model into a critic that starts from its normalised scores."""
    critic = twin(reward.scalar)
    with torch.no_grad():
        critic.head.weight.div_(reward.std)
        critic.head.bias.sub_(reward.mean).div_(reward.std)
    return critic


def trained_state(model: RewardModel) -> dict[str, Tensor]:
    """Give what training and normalising changed, to save."""
    changed = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return changed | {"mean": model.mean, "std": model.std}


def put_back(model: RewardModel, state: dict[str, Tensor]) -> None:
    """Undo `trained_state` on a reward model made from the same language model."""
    _put_back(model, state)
    model.mean.copy_(state["mean"])
    model.std.copy_(state["std"])
