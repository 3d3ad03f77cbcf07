"""Sampling answers from a policy: a small interface, and transformers in this process.

Left out: top-k, top-p and penalties. PPO needs the log-probabilities of what was sampled from.
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
        prompt: Its token ids.
        token_ids: The answer's, with the end token if it ended.
        log_probs: Of each token, natural, in the distribution sampled from.
        finished: Whether it ended by itself.

    """

    prompt: tuple[int, ...]
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finished: bool


class Sampler(Protocol):
    """Samples answers from one policy."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> list[Sample]:
        """Return n answers to each prompt, those to one prompt next to each other.

        Args:
            numbers: Of the prompts, where they are part of a longer list. An answer depends on
                the seed and its prompt's number, not on what is sampled beside it.

        """
        ...


class TransformersSampler:
    """Samples with a transformers model in this process; the same seed gives the same answers."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Sequence[int],
        *,
        pad: int = 0,
        batch: int = 64,
        dtype: Dtype = "float32",
    ) -> None:
        """Sample from `model` as it is at each call, at most `batch` answers at once.

        Args:
            dtype: To compute in.

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
        """Return n answers to each prompt, those to one prompt next to each other."""
        wanted, own = expand_prompts(prompts, n, numbers)
        model = cast_copy(self._model, self._dtype)
        order = sorted(range(len(wanted)), key=lambda i: (len(wanted[i]), i))
        samples: dict[int, Sample] = {}
        for start in range(0, len(order), self._batch):
            picked = order[start : start + self._batch]
            chances_BT = torch.stack([_uniform_draws(seed, own[i], max_tokens) for i in picked])
            answers = self._decode(model, [wanted[i] for i in picked], chances_BT, temperature)
            samples.update(zip(picked, answers, strict=True))
        return [samples[i] for i in range(len(wanted))]

    def _decode(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        chances_BT: Tensor,
        temperature: float,
    ) -> list[Sample]:
        max_tokens, device = chances_BT.shape[1], model.device
        ids_BT, mask_BT = (part.to(device) for part in pad_left(prompts, self._pad))
        chances_BT = chances_BT.to(device)
        tokens: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        finished = [False] * len(prompts)
        # Which prompt each row of the batch belongs to.
        rows = torch.arange(len(prompts), device=device)
        cache = DynamicCache(config=model.config)
        for step in range(max_tokens):
            chances_B = chances_BT[rows, step]
            new_B, log_probs_B = _next(model, ids_BT, mask_BT, cache, temperature, chances_B)
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
            if len(keep) < len(rows):  # ended rows leave the batch, so that it gets smaller
                cache.batch_select_indices(keep)
                rows, mask_BT, new_B = rows[keep], mask_BT[keep], new_B[keep]
            ids_BT = new_B[:, None]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
        return [
            Sample(tuple(prompt), tuple(t), tuple(p), done)
            for prompt, t, p, done in zip(prompts, tokens, log_probs, finished, strict=True)
        ]


def _next(
    model: PreTrainedModel,
    ids_BT: Tensor,
    mask_BT: Tensor,
    cache: DynamicCache,
    temperature: float,
    chances_B: Tensor,
) -> tuple[Tensor, Tensor]:
    logits_BV = model(
        input_ids=ids_BT,
        attention_mask=mask_BT.long(),
        position_ids=position_ids(mask_BT)[:, -ids_BT.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    log_probs_BV = (logits_BV.float() / temperature).log_softmax(-1)
    up_to_BV = log_probs_BV.exp().cumsum(-1)
    # Of the whole that it adds up to, which rounding leaves a little off 1.
    new_B1 = torch.searchsorted(up_to_BV, chances_B[:, None] * up_to_BV[:, -1:], right=True)
    new_B1 = new_B1.clamp_max(up_to_BV.shape[-1] - 1)
    return new_B1.squeeze(-1), log_probs_BV.gather(-1, new_B1).squeeze(-1)


def expand_prompts(
    prompts: Sequence[Sequence[int]], n: int, numbers: Sequence[int] | None
) -> tuple[list[Sequence[int]], list[int]]:
    """Return the prompt of every answer, and the answer's number, which its seed goes by."""
    numbers = range(len(prompts)) if numbers is None else numbers
    wanted = [prompt for prompt in prompts for _ in range(n)]
    return wanted, [number * n + i for number in numbers for i in range(n)]


def _uniform_draws(seed: int, number: int, count: int) -> Tensor:
    """Return the random numbers in [0, 1) that an answer's tokens are chosen by."""
    generator = torch.Generator().manual_seed(answer_seed(seed, number))
    return torch.rand(count, generator=generator)


def answer_seed(seed: int, number: int) -> int:
    """Return the seed of one answer of many."""
    return (seed * 1_000_003 + number) % 2**63
