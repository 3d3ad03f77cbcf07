"""The reward model: a language model's trunk with a scalar head.

The gate's judge is a linear model instead (`learner.gate.judge`). Left out: ensembles.
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
    """Score a prompt with its answer, at the last token that is not padding.

    Besides the scores it learns how often raters call a tie (`log_tie`, log nu of Davidson's
    model) and the score above which they approve of a single answer (`offset`).

    Attributes:
        pad: Padding token id.
        shares_prompt: Whether answers to one prompt may share a row.
        mean: Mean of the scores of the reference answers, set by `normalise`.
        std: Standard deviation of the same scores.

    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: PreTrainedModel, *, pad: int, seed: int, dtype: Dtype = "float32"
    ) -> None:
        """Use the trunk of `model` (not a copy) with a new head.

        Args:
            model: Causal language model.
            pad: Padding token id.
            seed: Random seed of the head.
            dtype: Type of the matrix products.

        """
        super().__init__()
        self.scalar = ScalarModel(model, seed, dtype)
        self.log_tie = nn.Parameter(torch.tensor(-1.0))
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.pad = pad
        self.shares_prompt = can_share(model.config)
        self.to(model.device)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.mean.device

    def forward(self, batch: AnswerBatch) -> Tensor:
        """Return the raw score of each answer, [A], with gradient."""
        scores_A: Tensor = self.scalar(batch)[batch.last_index_A]
        return scores_A

    @torch.no_grad()
    def score(
        self, rows: Sequence[PromptAnswers], *, micro_tokens: int = 4096, normalised: bool = True
    ) -> Tensor:
        """Return the scores of all answers in order, [A], without gradient, on the CPU.

        Args:
            rows: Prompts with their answers.
            micro_tokens: Maximum of padded tokens in one forward pass.
            normalised: Whether to return normalised scores instead of raw ones.

        """
        scores_of_row: dict[int, Tensor] = {}
        for members in group_by_length([row.length for row in rows], micro_tokens):
            group = [rows[i] for i in members]
            scores_A = self(build_answer_batch(group, pad=self.pad, device=self.device))
            scores = scores_A.split([len(row.answers) for row in group])
            scores_of_row.update(zip(members, scores, strict=True))
        scores_A = torch.cat([scores_of_row[i] for i in range(len(rows))])
        return (self.normalised(scores_A) if normalised else scores_A).cpu()

    def normalised(self, scores_A: Tensor) -> Tensor:
        """Return raw scores on the scale that `normalise` has set, [A]."""
        return (scores_A - self.mean) / self.std

    def normalise(self, rows: Sequence[PromptAnswers]) -> None:
        """Set the scale so that the scores of these answers have mean 0 and deviation 1."""
        scores = self.score(rows, normalised=False)
        self.mean.copy_(scores.mean())
        self.std.copy_(scores.std().clamp_min(1e-4))


@torch.no_grad()
def load_weights(model: RewardModel, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the parameters of the same names; leave other parameters as they are."""
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])


def trained_state(model: RewardModel) -> dict[str, Tensor]:
    """Return the trainable parameters and the scale of the scores, to be saved."""
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return weights | {"mean": model.mean, "std": model.std}


def load_trained_state(model: RewardModel, state: dict[str, Tensor]) -> None:
    """Load a `trained_state` into a reward model that was built from the same language model."""
    load_weights(model, state)
    model.mean.copy_(state["mean"])
    model.std.copy_(state["std"])
