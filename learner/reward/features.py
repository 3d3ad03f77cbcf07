"""Features of answers for the linear models: a language model's mean states and the structure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learner.data.answers import AnswerBatch, PromptAnswers, build_answer_batch
from learner.data.batching import group_by_length
from learner.data.preferences import PreferenceExample
from learner.data.structure import STRUCTURE_SIZE, structures
from learner.data.work import working_on
from learner.models.forward import model_inputs
from learner.models.parameters import trunk_of
from learner.models.precision import compute_in
from learner.settings import Dtype


def example_rows(examples: Sequence[PreferenceExample]) -> list[PromptAnswers]:
    """Return a row for each answer of the examples, in order."""
    return [
        PromptAnswers(tuple(sequence[:-length]), (tuple(sequence[-length:]),))
        for example in examples
        for sequence, length in zip(example.sequences, example.lengths, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class AnswerFeatures:
    """Computes features of answers.

    Attributes:
        model: Language model whose states are read; it is not trained.
        tokenizer: Tokenizer of the model.
        pad: Padding token id.
        dtype: Type of the matrix products.
        micro_tokens: Maximum of padded tokens in one forward pass.

    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pad: int
    dtype: Dtype
    micro_tokens: int

    def of_examples(
        self,
        examples: Sequence[PreferenceExample],
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Return the features of the answers of the examples, [A, D], in order.

        Args:
            examples: Votes; those of a batch are reported as in work.
            raise_if_stopped: Called before every forward pass; its exception ends the computation.

        """
        owners = [example for example in examples for _ in example.sequences]
        return self.of(example_rows(examples), owners, raise_if_stopped)

    def of(
        self,
        rows: Sequence[PromptAnswers],
        owners: Sequence[PreferenceExample] = (),
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Return the features of each row's answer, [A, D].

        Args:
            rows: Prompts with one answer each.
            owners: Vote of each row; none if the answers are of no vote.
            raise_if_stopped: Called before every forward pass; its exception ends the computation.

        """
        states_AD = self._states(rows, owners, raise_if_stopped)
        return self._with_structure(
            states_AD, [row.prompt for row in rows], [row.answers[0] for row in rows]
        )

    @torch.no_grad()
    def of_batch(self, batch: AnswerBatch, states_TH: Tensor) -> Tensor:
        """Return the features of a batch's answers, [A, D]; every row has one answer.

        Args:
            batch: Answers.
            states_TH: The model's hidden states at every token of the flattened rows.

        """
        states_AD = _mean_states(self.model, batch, states_TH)
        lengths = batch.answer_mask_AL.sum(-1).tolist()
        prompts, answers = [], []
        rows = zip(batch.ids_RT.tolist(), batch.last_index_A.tolist(), lengths, strict=True)
        for ids, last, length in rows:
            end = last % len(ids) + 1
            prompts.append(ids[: end - length])
            answers.append(ids[end - length : end])
        return self._with_structure(states_AD, prompts, answers)

    def _with_structure(
        self,
        states_AD: Tensor,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
    ) -> Tensor:
        texts = (
            self.tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True)
            for ids in (prompts, answers)
        )
        return torch.cat([states_AD, structures(*texts).to(states_AD.device)], dim=-1)

    @torch.no_grad()
    def _states(
        self,
        rows: Sequence[PromptAnswers],
        owners: Sequence[PreferenceExample],
        raise_if_stopped: Callable[[], None],
    ) -> Tensor:
        """Return the model's state of each answer.

        The state is the mean over the answer's tokens of their embeddings, followed by the mean of
        their last hidden states.
        """
        states_of_answer: dict[int, Tensor] = {}
        for members in group_by_length([row.length for row in rows], self.micro_tokens):
            raise_if_stopped()
            with working_on([owners[i] for i in members] if owners else []):
                batch = build_answer_batch(
                    [rows[i] for i in members], pad=self.pad, device=self.model.device
                )
                with compute_in(self.dtype, batch.ids_RT):
                    output = trunk_of(self.model)(**model_inputs(batch))
                states = _mean_states(self.model, batch, output.last_hidden_state.flatten(0, 1))
            states_of_answer.update(zip(members, states, strict=True))
        return torch.stack([states_of_answer[i] for i in range(len(rows))])


def feature_groups(features_AD: Tensor) -> tuple[int, int]:
    """Return the numbers of entries that are states, and that are structure."""
    return features_AD.shape[1] - STRUCTURE_SIZE, STRUCTURE_SIZE


def _mean_states(model: PreTrainedModel, batch: AnswerBatch, states_TH: Tensor) -> Tensor:
    """Return the state of each answer of a batch, [A, D]; every row has one answer."""
    embedding = model.get_input_embeddings()
    lengths_A = batch.answer_mask_AL.sum(-1)
    first_A = batch.last_index_A - lengths_A + 1
    index_AL = first_A[:, None] + torch.arange(batch.answer_mask_AL.shape[1], device=model.device)
    index_N = index_AL[batch.answer_mask_AL]
    values_ND = torch.cat([embedding(batch.tokens_N).float(), states_TH[index_N].float()], dim=-1)
    count = len(lengths_A)
    answer_N = torch.arange(count, device=model.device).repeat_interleave(lengths_A)
    sums_AD = values_ND.new_zeros(count, values_ND.shape[1]).index_add(0, answer_N, values_ND)
    return sums_AD / lengths_A[:, None]
