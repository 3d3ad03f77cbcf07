"""What a cycle works with: the reference policy, prompts, and text."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from feedback.ledger.store import Ledger
from learner import corpus
from learner.data.packing import IGNORED, Rows, pack_documents
from learner.data.preferences import prompt_key, prompt_split
from learner.data.tokenizer import encode_answer, encode_chat, end_token_ids, pad_token_id
from learner.errors import ModelUnusable
from learner.models.adapters import add_adapter
from learner.models.checkpoint import model_exists
from learner.models.compiled import compile_layers
from learner.models.loading import best_device, load_model, load_tokenizer, sampling_temperature
from learner.models.parameters import copy_shared, count_parameters, is_trainable
from learner.models.precision import freeze
from learner.pretraining.next_token import text_nll
from learner.pretraining.pretrain import documents, held_out_text
from learner.sampling.sampler import Sample, Sampler, TransformersSampler
from learner.settings import LearnerSettings
from protos.checkpoints.registry import CheckpointInvalid
from protos.checkpoints.shared_registry import open_registry

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from learner.sampling.vllm_sampler import VllmEngine

_MAX_DEMONSTRATION_PROMPTS: Final = (
    600  # prompts of the demonstrations, beside those that people asked
)
_MAX_USER_PROMPTS: Final = 4000
_TEXT_TOKENS: Final = 100_000
_HELD_OUT_TEXT_TOKENS: Final = 16_384


@dataclass(slots=True)
class Materials:
    """What a cycle works with.

    Attributes:
        settings: The learner's, as they fit this model.
        made_here: Whether the models descend from one that Plaudit pre-trained.
        reference: The SFT policy, version 1; frozen where adapters are trained, and shared then.
        prompts: Token ids to learn on.
        held_out_prompts: Token ids to judge on; never learned on.
        text: Rows for the pre-training loss.
        text_by_reference: Whether the reference wrote it: it is not made here, and nobody gave any.
        held_out_text: Rows to measure it on.
        base_text_nll: What these cost the pre-trained model (the reference where there is none).

    """

    settings: LearnerSettings
    made_here: bool
    tokenizer: PreTrainedTokenizerBase
    reference: PreTrainedModel
    prompts: list[list[int]]
    held_out_prompts: list[list[int]]
    text: Rows
    text_by_reference: bool
    held_out_text: Rows
    base_text_nll: float
    _engine: "VllmEngine | None" = field(default=None, init=False)

    @property
    def pad(self) -> int:
        """The id to pad with."""
        return pad_token_id(self.tokenizer)

    def sampler(self, model: PreTrainedModel) -> Sampler:
        """Sample from a policy of this family, until `close`."""
        ends, ppo = end_token_ids(self.tokenizer), self.settings.ppo
        if self.settings.sampler == "transformers":
            return TransformersSampler(
                model, ends, pad=self.pad, batch=ppo.rollouts, dtype=self.settings.dtype
            )
        from learner.sampling.vllm_sampler import (  # it takes seconds to import
            VllmEngine,
            VllmSampler,
        )

        if self._engine is None:
            self._engine = VllmEngine(
                self.reference,
                max_tokens=ppo.max_prompt_tokens + max(ppo.max_tokens, ppo.text_row),
                batch=ppo.rollouts,
                dtype=self.settings.dtype,
            )
        return VllmSampler(model, ends, self._engine)

    def close(self) -> None:
        """End the engine that samples, where there is one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def to_train(self, seed: int, model: PreTrainedModel | None = None) -> PreTrainedModel:
        """Make `model` (else a copy of the reference) one to train: a frozen one by an adapter."""
        model = copy_shared(self.reference) if model is None else model
        if not is_trainable(model):
            add_adapter(model, self.settings.lora, seed)
        settings = self.settings
        if settings.compiled and settings.tune == "lora" and settings.dtype == "bfloat16":
            compile_layers(model)
        return model

    def encode_answer(self, text: str) -> list[int]:
        """Return the tokens of an answer that nobody sampled, with its end."""
        return encode_answer(self.tokenizer, text)


def gather(home: Path, settings: LearnerSettings, ledger: Ledger, upto_seq: int) -> Materials:
    """Load all that a cycle needs; the same ledger range gives the same.

    Raises:
        ModelUnusable: There is no version 1.

    """
    registry = open_registry(home)
    try:
        registry.verify(1)
    except CheckpointInvalid as error:
        raise ModelUnusable(f"there is no version 1 to learn from: {error}") from error
    first = registry.path(1)
    reference, tokenizer = load_model(first, best_device()), load_tokenizer(first)
    made_here = model_exists(home / "models" / "pretrained")
    own_text = not (made_here or settings.text)
    settings = settings.for_model(
        count_parameters(reference), sampling_temperature(reference), own_text=own_text
    )
    if settings.tune == "lora":
        freeze(reference, settings.dtype)
    if not made_here and registry.manifest(1).base == "default":
        logger.warning(
            "%s holds no pre-trained model: instead of its text, what version 1 writes keeps the "
            "policy near what it was. 'plaudit pretrain --out %s' makes it again",
            home,
            home / "models" / "pretrained",
        )
    asked = ledger.prompts(_MAX_USER_PROMPTS, upto_seq)
    shown = (
        list(islice(_demonstration_prompts(settings.seed), _MAX_DEMONSTRATION_PROMPTS))
        if made_here
        else []
    )
    prompts, held_out = _prompts([*asked, *shown], tokenizer, settings)
    materials = Materials(
        settings=settings,
        made_here=made_here,
        tokenizer=tokenizer,
        reference=reference,
        prompts=prompts,
        held_out_prompts=held_out,
        text=_EMPTY,
        text_by_reference=own_text,
        held_out_text=_EMPTY,
        base_text_nll=0.0,
    )
    _add_text(materials, home, asked)
    return materials


_EMPTY: Final = Rows(*(torch.zeros((0, 1), dtype=torch.long) for _ in range(3)))


def _add_text(materials: Materials, home: Path, asked: Sequence[list[dict[str, str]]]) -> None:
    settings, tokenizer = materials.settings, materials.tokenizer
    row = settings.ppo.text_row
    base = materials.reference
    if not materials.text_by_reference:
        files = settings.text or None
        source = documents(files, settings.seed + 2, repeat=True)
        materials.text = pack_documents(source, tokenizer, row=row, tokens=_TEXT_TOKENS)
        materials.held_out_text = held_out_text(
            tokenizer, files, row=row, tokens=_HELD_OUT_TEXT_TOKENS
        )
        if materials.made_here:
            base = load_model(home / "models" / "pretrained", base.device)
    elif beginnings := _text_prefixes(asked, tokenizer, row // 2):
        count = max(2, 4 * settings.ppo.text_rows)
        samples = materials.sampler(base).sample(
            _repeat_prompts(beginnings, 2 * count), 1, row, 1.0, settings.seed
        )
        materials.text = _sampled_rows(samples[::2], materials.pad)
        materials.held_out_text = _sampled_rows(samples[1::2], materials.pad)
    if len(materials.held_out_text):
        materials.base_text_nll = text_nll(base, materials.held_out_text)


def _text_prefixes(
    conversations: Sequence[list[dict[str, str]]], tokenizer: PreTrainedTokenizerBase, most: int
) -> list[list[int]]:
    """Encode what people asked as plain text to go on with, without the chat template.

    Chat answers would not do: what people wish of these, PPO must be free to change.
    """
    texts = dict.fromkeys(messages[-1]["content"] for messages in conversations if messages)
    return [ids[:most] for text in texts if (ids := tokenizer(text)["input_ids"])]


def _sampled_rows(samples: Sequence[Sample], pad: int) -> Rows:
    """Return what the reference wrote as text to keep likely; the beginnings have no loss."""
    sequences = [(*s.prompt, *s.token_ids) for s in samples]
    width = max(map(len, sequences))
    ids = [[*s, *[pad] * (width - len(s))] for s in sequences]
    labels = [
        [*[IGNORED] * len(s.prompt), *s.token_ids, *[IGNORED] * (width - len(q))]
        for s, q in zip(samples, sequences, strict=True)
    ]
    positions_NT = torch.arange(width).expand(len(ids), width).contiguous()
    return Rows(torch.tensor(ids), torch.tensor(labels), positions_NT)


def _demonstration_prompts(seed: int) -> Iterator[list[dict[str, str]]]:
    """Return the conversations of the SFT set up to where the assistant speaks last."""
    return (conversation[:-1] for conversation in corpus.conversations(seed))


def _prompts(
    conversations: Sequence[list[dict[str, str]]],
    tokenizer: PreTrainedTokenizerBase,
    settings: LearnerSettings,
) -> tuple[list[list[int]], list[list[int]]]:
    """Encode distinct prompts that are short enough: those to learn on, and those held out."""
    learned: dict[str, list[int]] = {}
    held_out: dict[str, list[int]] = {}
    for messages in conversations:
        if not messages:
            continue
        key = prompt_key(messages)
        split = prompt_split(
            key,
            held_out_share=settings.reward.held_out_share,
            judge_share=settings.reward.judge_share,
        )
        into = held_out if split == "held_out" else learned
        if key not in into:
            into[key] = encode_chat(tokenizer, messages, answer=True)
    limit = settings.ppo.max_prompt_tokens
    short = [[p for p in part.values() if len(p) <= limit] for part in (learned, held_out)]
    return short[0], _repeat_prompts(short[1], settings.gate.prompts)


def demonstrated_prompts(
    tokenizer: PreTrainedTokenizerBase, seed: int, count: int
) -> list[list[int]]:
    """Encode the first prompts of the generated demonstrations."""
    return [
        encode_chat(tokenizer, m, answer=True) for m in islice(_demonstration_prompts(seed), count)
    ]


def _repeat_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
    """Return `count` prompts, where need be the same ones several times, at most four."""
    return (prompts * 4)[:count]
