"""The reward model: a language model's trunk with a scalar head.

The judge is a second one of these, trained on other prompts' votes. Left out: ensembles.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.data.answers import AnswerBatch, PromptAnswers, build_answer_batch, can_share
from learner.data.batching import group_by_length
from learner.models.forward import ScalarModel
from learner.settings import Dtype


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
        """Return a score before normalisation for each answer, [A], with gradient."""
        scores_A: Tensor = self.scalar(batch)[batch.last_index_A]
        return scores_A

    @torch.no_grad()
    def score(
        self, rows: Sequence[PromptAnswers], *, micro_tokens: int = 4096, normal: bool = True
    ) -> Tensor:
        """Return the scores of all answers in order, without gradient; `normal` or as trained."""
        found: dict[int, Tensor] = {}
        for part in group_by_length([row.length for row in rows], micro_tokens):
            own = [rows[i] for i in part]
            scores_A = self(build_answer_batch(own, pad=self.pad, device=self.device))
            scores = scores_A.split([len(row.answers) for row in own])
            found.update(zip(part, scores, strict=True))
        flat = torch.cat([found[i] for i in range(len(rows))])
        return (self.normal(flat) if normal else flat).cpu()

    def normal(self, scores_A: Tensor) -> Tensor:
        """Return scores as `normalise` has fixed their scale."""
        return (scores_A - self.mean) / self.std

    def normalise(self, rows: Sequence[PromptAnswers]) -> None:
        """Make the scores of these reference answers have mean 0 and deviation 1."""
        scores = self.score(rows, normal=False)
        self.mean.copy_(scores.mean())
        self.std.copy_(scores.std().clamp_min(1e-4))


@torch.no_grad()
def load_weights(model: RewardModel, kept: Mapping[str, Tensor]) -> None:
    """Set those weights that `kept` names."""
    for name, parameter in model.named_parameters():
        if name in kept:
            parameter.copy_(kept[name])


def trained_state(model: RewardModel) -> dict[str, Tensor]:
    """Return what training and normalising changed, to save."""
    changed = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return changed | {"mean": model.mean, "std": model.std}


def load_trained_state(model: RewardModel, state: dict[str, Tensor]) -> None:
    """Undo `trained_state` on a reward model made from the same language model."""
    load_weights(model, state)
    model.mean.copy_(state["mean"])
    model.std.copy_(state["std"])
