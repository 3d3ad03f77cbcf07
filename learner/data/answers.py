"""Answers laid out for a forward pass: each row is a prompt with its answers behind it.

The answers to one prompt share it, and do not see each other. Rows of like length are padded on
the right, where nothing that counts can see the padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """A prompt and the answers to it, as token ids; each answer has at least one."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Tokens in a row that holds it."""
        return len(self.prompt) + sum(map(len, self.answers))


def split_prompt(sequences: Sequence[Sequence[int]], *, shared: bool = True) -> list[PromptAnswers]:
    """Take the tokens that all sequences begin with as their prompt; with one, all but the last.

    Args:
        shared: False gives each sequence a row of its own.

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
    """Tell whether a model takes any attention mask: not one that attends in windows."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ()
    windows = getattr(text, "sliding_window", None) if not kinds else None
    return not windows and all(kind == "full_attention" for kind in kinds)


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """R rows of T tokens with A answers, whose N tokens stand one after the other.

    Attributes:
        ids_RT: Token ids.
        positions_RT: Of each token in its own sequence.
        seen_R1TT: What each token attends to; None where each row holds one answer, and
            attention need only be causal.
        tokens_N: The answers' token ids.
        before_N: Place in the flattened rows of the state that each was chosen in.
        last_A: Place in the flattened rows of each answer's last token.
        chosen_AL: True at the first tokens of each answer, as many as it has.

    """

    ids_RT: Tensor
    positions_RT: Tensor
    attention_mask_R1TT: Tensor | None
    tokens_N: Tensor
    state_index_N: Tensor
    last_index_A: Tensor
    answer_mask_AL: Tensor

    def padded(self, values_N: Tensor) -> Tensor:
        """Return one row for each answer, [A, L], zero behind its end."""
        values_AL = values_N.new_zeros(self.answer_mask_AL.shape)
        return values_AL.masked_scatter(self.answer_mask_AL, values_N)

    def per_token(self, values_A: Tensor) -> Tensor:
        """Return each token of the answers what its answer has, [N]."""
        return values_A.to(self.answer_mask_AL.device).repeat_interleave(
            self.answer_mask_AL.sum(-1)
        )


def build_answer_batch(
    rows: Sequence[PromptAnswers], *, pad: int, device: torch.device
) -> AnswerBatch:
    """Lay rows out for one forward pass."""
    width = max(row.length for row in rows)
    ids, positions, before, last = [], [], [], []
    for number, row in enumerate(rows):
        start = number * width
        prompt = len(row.prompt)
        ends = list(accumulate(map(len, row.answers), initial=prompt))
        flat = [*row.prompt, *(token for answer in row.answers for token in answer)]
        own = list(range(prompt))
        for answer, at in zip(row.answers, ends, strict=False):
            own += range(prompt, prompt + len(answer))
            # Its first token is chosen behind the prompt, each other one behind the one before.
            before += [start + prompt - 1, *range(start + at, start + at + len(answer) - 1)]
            last.append(start + at + len(answer) - 1)
        ids.append(flat + [pad] * (width - len(flat)))
        positions.append(own + [0] * (width - len(own)))
    lengths = torch.tensor([len(answer) for row in rows for answer in row.answers])
    shared = any(len(row.answers) > 1 for row in rows)
    tokens = [token for row in rows for answer in row.answers for token in answer]
    return AnswerBatch(
        ids_RT=torch.tensor(ids, device=device),
        positions_RT=torch.tensor(positions, device=device),
        attention_mask_R1TT=_seen(rows, width).to(device) if shared else None,
        tokens_N=torch.tensor(tokens, device=device),
        state_index_N=torch.tensor(before, device=device),
        last_index_A=torch.tensor(last, device=device),
        answer_mask_AL=(torch.arange(int(lengths.max())) < lengths[:, None]).to(device),
    )


def _seen(rows: Sequence[PromptAnswers], width: int) -> Tensor:
    """Return which tokens each token attends to: the prompt, and those before it in its answer."""
    branch_RT = torch.full((len(rows), width), -1)  # -1: the prompt (and the padding)
    for number, row in enumerate(rows):
        at = len(row.prompt)
        for which, answer in enumerate(row.answers):
            branch_RT[number, at : at + len(answer)] = which
            at += len(answer)
    same_RTT = branch_RT[:, :, None] == branch_RT[:, None, :]
    prompt_R1T = (branch_RT == -1)[:, None, :]
    causal_TT = torch.ones(width, width, dtype=torch.bool).tril()
    return ((same_RTT | prompt_R1T) & causal_TT)[:, None]
