"""Lay out prompts and answers for a forward pass: each row is a prompt followed by its answers.

The answers in a row share the prompt and do not attend to each other. Rows are padded on the right,
where no real token attends to the padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """A prompt and its answers as token ids; every answer has at least one token."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Number of tokens in its row."""
        return len(self.prompt) + sum(map(len, self.answers))


def split_prompt(sequences: Sequence[Sequence[int]], *, shared: bool = True) -> list[PromptAnswers]:
    """Split sequences into their longest common prefix, the prompt, and their answers.

    Every answer keeps at least its last token; the prompt of a single sequence is all the others.

    Args:
        sequences: Token ids of prompt and answer.
        shared: Whether the sequences share one row; otherwise each gets its own.

    """
    if not shared:
        return [one for sequence in sequences for one in split_prompt([sequence])]
    shortest = min(map(len, sequences)) - 1
    first = sequences[0]
    common = next(
        (i for i in range(shortest) if any(s[i] != first[i] for s in sequences)), shortest
    )
    return [PromptAnswers(tuple(first[:common]), tuple(tuple(s[common:]) for s in sequences))]


def can_share(config: PreTrainedConfig) -> bool:
    """Check whether a model accepts any attention mask; one with sliding windows does not."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ()
    windows = getattr(text, "sliding_window", None) if not kinds else None
    return not windows and all(kind == "full_attention" for kind in kinds)


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """R rows of T tokens that hold A answers of at most L tokens, N in total.

    Attributes:
        ids_RT: Token ids of the rows.
        positions_RT: Position of each token in its own sequence of prompt and answer.
        attention_mask_R1TT: True where a token attends to another; None if every row holds one
            answer, so that causal attention suffices.
        tokens_N: Token ids of the answers, one answer after the other.
        state_index_N: Index into the flattened rows of the state that each token was chosen from.
        last_index_A: Index into the flattened rows of each answer's last token.
        answer_mask_AL: True where an answer has a token.

    """

    ids_RT: Tensor
    positions_RT: Tensor
    attention_mask_R1TT: Tensor | None
    tokens_N: Tensor
    state_index_N: Tensor
    last_index_A: Tensor
    answer_mask_AL: Tensor

    def padded(self, values_N: Tensor) -> Tensor:
        """Return per-token values as one row per answer, [A, L], with zeros after its end."""
        values_AL = values_N.new_zeros(self.answer_mask_AL.shape)
        return values_AL.masked_scatter(self.answer_mask_AL, values_N)

    def per_token(self, values_A: Tensor) -> Tensor:
        """Return per-answer values repeated for every token of the answer, [N]."""
        return values_A.to(self.answer_mask_AL.device).repeat_interleave(
            self.answer_mask_AL.sum(-1)
        )


def build_answer_batch(
    rows: Sequence[PromptAnswers], *, pad: int, device: torch.device
) -> AnswerBatch:
    """Build the batch of one forward pass from rows, padded to the longest with the id `pad`."""
    width = max(row.length for row in rows)
    ids, positions, state_index, last_index = [], [], [], []
    for number, row in enumerate(rows):
        start = number * width
        prompt = len(row.prompt)
        ends = list(accumulate(map(len, row.answers), initial=prompt))
        flat = [*row.prompt, *(token for answer in row.answers for token in answer)]
        row_positions = list(range(prompt))
        for answer, at in zip(row.answers, ends, strict=False):
            row_positions += range(prompt, prompt + len(answer))
            # The first token is chosen after the prompt, every other after the token before it.
            state_index += [start + prompt - 1, *range(start + at, start + at + len(answer) - 1)]
            last_index.append(start + at + len(answer) - 1)
        ids.append(flat + [pad] * (width - len(flat)))
        positions.append(row_positions + [0] * (width - len(row_positions)))
    lengths = torch.tensor([len(answer) for row in rows for answer in row.answers])
    shared = any(len(row.answers) > 1 for row in rows)
    tokens = [token for row in rows for answer in row.answers for token in answer]
    return AnswerBatch(
        ids_RT=torch.tensor(ids, device=device),
        positions_RT=torch.tensor(positions, device=device),
        attention_mask_R1TT=_attention_mask(rows, width).to(device) if shared else None,
        tokens_N=torch.tensor(tokens, device=device),
        state_index_N=torch.tensor(state_index, device=device),
        last_index_A=torch.tensor(last_index, device=device),
        answer_mask_AL=(torch.arange(int(lengths.max())) < lengths[:, None]).to(device),
    )


def _attention_mask(rows: Sequence[PromptAnswers], width: int) -> Tensor:
    """Return a mask by which a token attends to the prompt and to earlier tokens of its answer."""
    branch_RT = torch.full((len(rows), width), -1)  # -1: prompt and padding
    for number, row in enumerate(rows):
        at = len(row.prompt)
        for branch, answer in enumerate(row.answers):
            branch_RT[number, at : at + len(answer)] = branch
            at += len(answer)
    same_RTT = branch_RT[:, :, None] == branch_RT[:, None, :]
    prompt_R1T = (branch_RT == -1)[:, None, :]
    causal_TT = torch.ones(width, width, dtype=torch.bool).tril()
    return ((same_RTT | prompt_R1T) & causal_TT)[:, None]
