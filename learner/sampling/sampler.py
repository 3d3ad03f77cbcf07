"""Sample answers from a policy: the interface, and a sampler on transformers in this process.

Not supported: top-k, top-p and penalties. PPO needs log-probabilities of the distribution that was
sampled from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from learner.data.batching import pad_left
from learner.models.forward import position_ids
from learner.models.precision import cast_copy
from learner.settings import Dtype


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled answer.

    Attributes:
        prompt: Token ids of the prompt.
        token_ids: Token ids of the answer, including the end token if it is finished.
        log_probs: Natural log-probability of each token in the distribution sampled from.
        finished: Whether the answer ended with an end token rather than at the token limit.

    """

    prompt: tuple[int, ...]
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finished: bool


class Sampler(Protocol):
    """Sampler of answers from one policy."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> list[Sample]:
        """Sample n answers to each prompt; the answers to one prompt are adjacent.

        Args:
            prompts: Token ids of the prompts.
            n: Number of answers to each prompt.
            max_tokens: Maximum number of tokens in an answer.
            temperature: Divisor of the logits.
            seed: Seed of all answers.
            numbers: Indices of the prompts if they are part of a longer list. An answer depends
                on the seed and the index of its prompt, not on what is sampled beside it.

        """
        ...


class TransformersSampler:
    """Sampler on a transformers model in this process; the same seed gives the same answers."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Sequence[int],
        *,
        pad: int = 0,
        batch: int = 64,
        dtype: Dtype = "float32",
    ) -> None:
        """Sample from the weights that `model` has at each call.

        Args:
            model: Policy to sample from.
            end_ids: Token ids that end an answer.
            pad: Token id for padding.
            batch: Maximum number of answers in one forward pass.
            dtype: Format to compute in.

        """
        self._model = model
        self._end_ids = torch.tensor(list(end_ids), device=model.device)
        self._pad = pad
        self._batch = batch
        self._dtype = dtype

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> list[Sample]:
        """Sample n answers to each prompt; see `Sampler.sample`."""
        expanded, answer_numbers = expand_prompts(prompts, n, numbers)
        model = cast_copy(self._model, self._dtype)
        order = sorted(range(len(expanded)), key=lambda i: (len(expanded[i]), i))
        samples: dict[int, Sample] = {}
        for start in range(0, len(order), self._batch):
            picked = order[start : start + self._batch]
            draws_BT = torch.stack(
                [_uniform_draws(seed, answer_numbers[i], max_tokens) for i in picked]
            )
            answers = self._decode(model, [expanded[i] for i in picked], draws_BT, temperature)
            samples.update(zip(picked, answers, strict=True))
        return [samples[i] for i in range(len(expanded))]

    def _decode(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        draws_BT: Tensor,
        temperature: float,
    ) -> list[Sample]:
        """Sample one answer to each prompt, as long as the uniform draws for its tokens."""
        max_tokens, device = draws_BT.shape[1], model.device
        ids_BT, mask_BT = (part.to(device) for part in pad_left(prompts, self._pad))
        draws_BT = draws_BT.to(device)
        tokens: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        finished = [False] * len(prompts)
        rows = torch.arange(len(prompts), device=device)  # prompt of each row of the batch
        cache = DynamicCache(config=model.config)
        for step in range(max_tokens):
            draws_B = draws_BT[rows, step]
            new_B, log_probs_B = _sample_next(model, ids_BT, mask_BT, cache, temperature, draws_B)
            ended_B = torch.isin(new_B, self._end_ids)
            for row, token, log_prob, ended in zip(
                rows.tolist(), new_B.tolist(), log_probs_B.tolist(), ended_B.tolist(), strict=True
            ):
                tokens[row].append(token)
                log_probs[row].append(log_prob)
                finished[row] = ended
            if bool(ended_B.all()) or step + 1 == max_tokens:
                break
            keep = (~ended_B).nonzero().squeeze(-1)
            if len(keep) < len(rows):  # finished rows leave the batch
                cache.batch_select_indices(keep)
                rows, mask_BT, new_B = rows[keep], mask_BT[keep], new_B[keep]
            ids_BT = new_B[:, None]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
        return [
            Sample(tuple(prompt), tuple(t), tuple(p), done)
            for prompt, t, p, done in zip(prompts, tokens, log_probs, finished, strict=True)
        ]


def _sample_next(
    model: PreTrainedModel,
    ids_BT: Tensor,
    mask_BT: Tensor,
    cache: DynamicCache,
    temperature: float,
    draws_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Choose each row's next token by its uniform draw; return tokens and log-probabilities."""
    logits_BV = model(
        input_ids=ids_BT,
        attention_mask=mask_BT.long(),
        position_ids=position_ids(mask_BT)[:, -ids_BT.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    log_probs_BV = (logits_BV.float() / temperature).log_softmax(-1)
    cumulative_BV = log_probs_BV.exp().cumsum(-1)
    # The draw is scaled by the actual sum, which differs from 1 by rounding.
    new_B1 = torch.searchsorted(cumulative_BV, draws_B[:, None] * cumulative_BV[:, -1:], right=True)
    new_B1 = new_B1.clamp_max(cumulative_BV.shape[-1] - 1)
    return new_B1.squeeze(-1), log_probs_BV.gather(-1, new_B1).squeeze(-1)


def expand_prompts(
    prompts: Sequence[Sequence[int]], n: int, numbers: Sequence[int] | None
) -> tuple[list[Sequence[int]], list[int]]:
    """Return the prompt of every answer, and its number, which determines its seed."""
    numbers = range(len(prompts)) if numbers is None else numbers
    expanded = [prompt for prompt in prompts for _ in range(n)]
    return expanded, [number * n + i for number in numbers for i in range(n)]


def _uniform_draws(seed: int, number: int, count: int) -> Tensor:
    """Return the uniform random numbers in [0, 1) that choose an answer's tokens."""
    generator = torch.Generator().manual_seed(answer_seed(seed, number))
    return torch.rand(count, generator=generator)


def answer_seed(seed: int, number: int) -> int:
    """Return the seed of the answer with this number."""
    return (seed * 1_000_003 + number) % 2**63
