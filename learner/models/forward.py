"""Forward passes over batches of answers: logits of the answers' tokens, and a scalar head."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.data.answers import AnswerBatch
from learner.models.parameters import hidden_size, trunk_of
from learner.models.precision import compute_in
from learner.settings import Dtype


class ScalarModel(nn.Module):
    """A language model's trunk with a scalar head: a reward model or a critic."""

    def __init__(self, model: PreTrainedModel, seed: int, dtype: Dtype = "float32") -> None:
        """Use the trunk of `model` (not copied) and draw the head from N(0, 0.3/sqrt(d+1)).

        Stiennon et al. 2020 (arXiv:2009.01325, appendix B) draw it with 1/sqrt(d+1). Such a head
        starts with strong preferences of its own, which the few dozen steps of training on a small
        number of votes do not undo: the model stays confident and wrong.

        Args:
            model: Language model that the trunk is taken from.
            seed: Seed of the head's weights.
            dtype: Format to compute matrix products in.

        """
        super().__init__()
        self.trunk = trunk_of(model)
        self.dtype: Dtype = dtype
        width = hidden_size(model)
        self.head = nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            std = 0.3 / math.sqrt(width + 1)
            self.head.weight.normal_(0, std, generator=generator)
            self.head.bias.zero_()

    def forward(self, batch: AnswerBatch) -> Tensor:
        """Return one value for every token of the flattened rows, [RT]."""
        values: Tensor = self.head(self.states(batch)).squeeze(-1)
        return values

    def states(self, batch: AnswerBatch) -> Tensor:
        """Return the last hidden state at every token of the flattened rows, [RT, H]."""
        with compute_in(self.dtype, batch.ids_RT):
            states: Tensor = self.trunk(**model_inputs(batch)).last_hidden_state
        return states.flatten(0, 1).float()


def model_inputs(batch: AnswerBatch) -> dict[str, Any]:
    """Return the keyword arguments of a model or trunk for a batch of answers."""
    if batch.attention_mask_R1TT is None:  # causal attention suffices: padding comes last
        return {"input_ids": batch.ids_RT, "use_cache": False}
    return {
        "input_ids": batch.ids_RT,
        "position_ids": batch.positions_RT,
        "attention_mask": batch.attention_mask_R1TT,
        "use_cache": False,
    }


def answer_logits(
    model: PreTrainedModel, batch: AnswerBatch, dtype: Dtype
) -> tuple[Tensor, Tensor]:
    """Compute the logits that the answers' tokens were chosen from, and the hidden states there.

    Returns:
        Logits [N, V] and hidden states [N, H].

    """
    logits_NV, states_NH, _ = logits_and_states(model, batch, dtype)
    return logits_NV, states_NH


def logits_and_states(
    model: PreTrainedModel, batch: AnswerBatch, dtype: Dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the logits that the answers' tokens were chosen from, and hidden states.

    The output head sees only the states that tokens were chosen from, so no logits are computed
    for the prompts.

    Returns:
        Logits [N, V], the states that they were computed from [N, H], and the states at every
        token of the flattened rows [RT, H].

    """
    head = model.get_output_embeddings()
    kept: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states_TH = arguments[0].flatten(0, 1)
        kept.extend((states_TH[batch.state_index_N], states_TH))
        return (kept[0],)

    hook = head.register_forward_pre_hook(keep)
    try:
        with compute_in(dtype, batch.ids_RT):
            logits_NV: Tensor = model(**model_inputs(batch)).logits
    finally:
        hook.remove()
    return logits_NV, kept[0], kept[1]


def position_ids(mask_BT: Tensor) -> Tensor:
    """Return the position of each real token in its row, wherever the padding is, [B, T]."""
    return (mask_BT.long().cumsum(-1) - 1).clamp_min(0)
