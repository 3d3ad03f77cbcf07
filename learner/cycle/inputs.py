"""The inputs of a learning cycle: settings, reference policy, prompts and text."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from feedback.ledger.store import Ledger
from learner import corpus
from learner.data.packing import IGNORED, Rows, pack_documents
from learner.data.preferences import prompt_key, prompt_split
from learner.data.tokenizer import encode_answer, encode_chat, pad_token_id
from learner.errors import ModelUnusable
from learner.models.adapters import add_adapter
from learner.models.compiled import compile_layers
from learner.models.loading import best_device, load_model, load_tokenizer, sampling_temperature
from learner.models.parameters import copy_shared, count_parameters, is_trainable
from learner.models.precision import freeze
from learner.models.saving import model_exists
from learner.pretraining.documents import documents, held_out_text
from learner.pretraining.next_token import text_nll
from learner.sampling.factory import SamplerFactory
from learner.sampling.sampler import Sample, Sampler
from learner.settings import LearnerSettings
from protos.checkpoints.registry import CheckpointInvalid
from protos.checkpoints.shared_registry import open_registry

logger = logging.getLogger(__name__)

_MAX_DEMONSTRATION_PROMPTS: Final = 600  # added to the prompts of users
_MAX_USER_PROMPTS: Final = 4000
_TEXT_TOKENS: Final = 100_000
_HELD_OUT_TEXT_TOKENS: Final = 16_384


@dataclass(frozen=True, slots=True)
class CycleInputs:
    """The inputs of a learning cycle.

    Attributes:
        settings: Settings of the learner with the defaults for this model.
        knows_corpus: Whether the policies descend from a model that was trained on the generated
            corpus: the default model.
        tokenizer: Tokenizer of version 1.
        reference: SFT policy, version 1; frozen and shared by all models if adapters are trained.
        samplers: Factory of samplers.
        prompts: Token ids of the prompts of PPO.
        held_out_prompts: Token ids of the gate's prompts; PPO never samples on them.
        text: Packed text of the pre-training loss.
        text_by_reference: Whether the reference policy wrote the text, because there is neither
            a pre-trained model nor a text file.
        held_out_text: Packed text on which the gate measures the loss.
        base_text_nll: Loss of the pre-trained model on `held_out_text`, in nats per token; that
            of the reference policy if the home folder has no pre-trained model.

    """

    settings: LearnerSettings
    knows_corpus: bool
    tokenizer: PreTrainedTokenizerBase
    reference: PreTrainedModel
    samplers: SamplerFactory
    prompts: list[list[int]]
    held_out_prompts: list[list[int]]
    text: Rows
    text_by_reference: bool
    held_out_text: Rows
    base_text_nll: float

    @property
    def pad(self) -> int:
        """Token id for padding."""
        return pad_token_id(self.tokenizer)

    def sampler(self, model: PreTrainedModel) -> Sampler:
        """Return a sampler of a policy of this family, to be used before `close`."""
        return self.samplers.create(model)

    def close(self) -> None:
        """Stop the sampling engine, if one was started."""
        self.samplers.close()

    def prepare_for_training(
        self, seed: int, model: PreTrainedModel | None = None
    ) -> PreTrainedModel:
        """Return `model` ready to train: with an adapter if frozen, compiled if so configured.

        Args:
            seed: Seed of the adapter's weights.
            model: Model to change in place; by default a copy of the reference policy.

        """
        model = copy_shared(self.reference) if model is None else model
        if not is_trainable(model):
            add_adapter(model, self.settings.lora, seed)
        settings = self.settings
        if settings.compiled and settings.tune == "lora" and settings.dtype == "bfloat16":
            compile_layers(model)
        return model

    def encode_answer(self, text: str) -> list[int]:
        """Return the token ids of a written answer, with the end token."""
        return encode_answer(self.tokenizer, text)


def load_inputs(
    home: Path, settings: LearnerSettings, ledger: Ledger, upto_seq: int
) -> CycleInputs:
    """Load the inputs of a cycle; the same ledger rows up to `upto_seq` give the same inputs.

    Raises:
        ModelUnusable: The registry has no valid version 1.

    """
    first, pretrained = _first_version(home), home / "models" / "pretrained"
    reference, tokenizer = load_model(first, best_device()), load_tokenizer(first)
    has_pretrained = model_exists(pretrained)
    knows_corpus = has_pretrained or open_registry(home).manifest(1).base == "default"
    own_text = not (knows_corpus or settings.text)
    settings = settings.for_model(
        count_parameters(reference), sampling_temperature(reference), own_text=own_text
    )
    if settings.tune == "lora":
        freeze(reference, settings.dtype)
    user_prompts = ledger.prompts(_MAX_USER_PROMPTS, upto_seq)
    prompts, held_out = _load_prompts(user_prompts, tokenizer, settings, generated=knows_corpus)
    samplers = SamplerFactory(reference, tokenizer, settings)
    text, held_out_rows = (
        _sample_text(samplers, reference, user_prompts, tokenizer, settings)
        if own_text
        else _pack_text(tokenizer, settings)
    )
    base = load_model(pretrained, reference.device) if has_pretrained else reference
    return CycleInputs(
        settings=settings,
        knows_corpus=knows_corpus,
        tokenizer=tokenizer,
        reference=reference,
        samplers=samplers,
        prompts=prompts,
        held_out_prompts=held_out,
        text=text,
        text_by_reference=own_text,
        held_out_text=held_out_rows,
        base_text_nll=text_nll(base, held_out_rows) if len(held_out_rows) else 0.0,
    )


def _first_version(home: Path) -> Path:
    """Return the folder of version 1, checked."""
    registry = open_registry(home)
    try:
        registry.verify(1)
    except CheckpointInvalid as error:
        raise ModelUnusable(
            f"the registry has no valid version 1 to start from: {error}"
        ) from error
    return registry.path(1)


def _pack_text(tokenizer: PreTrainedTokenizerBase, settings: LearnerSettings) -> tuple[Rows, Rows]:
    """Return packed text for the pre-training loss, and held-out text to measure the loss on."""
    files, row = settings.text or None, settings.ppo.text_row
    source = documents(files, settings.seed + 2, repeat=True)
    text = pack_documents(source, tokenizer, row=row, tokens=_TEXT_TOKENS)
    return text, held_out_text(tokenizer, files, row=row, tokens=_HELD_OUT_TEXT_TOKENS)


def _sample_text(
    samplers: SamplerFactory,
    reference: PreTrainedModel,
    conversations: Sequence[list[dict[str, str]]],
    tokenizer: PreTrainedTokenizerBase,
    settings: LearnerSettings,
) -> tuple[Rows, Rows]:
    """Return what `_pack_text` returns, but let the reference policy write the text."""
    row = settings.ppo.text_row
    prefixes = _text_prefixes(conversations, tokenizer, row // 2)
    if not prefixes:
        return _EMPTY, _EMPTY
    count = max(2, 4 * settings.ppo.text_rows)
    samples = samplers.create(reference).sample(
        _repeat_prompts(prefixes, 2 * count), 1, row, 1.0, settings.seed
    )
    pad = pad_token_id(tokenizer)
    return _sampled_rows(samples[::2], pad), _sampled_rows(samples[1::2], pad)


_EMPTY: Final = Rows(*(torch.zeros((0, 1), dtype=torch.long) for _ in range(3)))


def _text_prefixes(
    conversations: Sequence[list[dict[str, str]]], tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[list[int]]:
    """Encode the users' last messages, without the chat template, as prefixes of plain text.

    With the template the reference would write chat answers, and the loss on those would keep
    PPO from changing what people want changed.
    """
    texts = dict.fromkeys(messages[-1]["content"] for messages in conversations if messages)
    return [ids[:limit] for text in texts if (ids := tokenizer(text)["input_ids"])]


def _sampled_rows(samples: Sequence[Sample], pad: int) -> Rows:
    """Return sampled text as rows, with no loss on the prefixes."""
    sequences = [(*s.prompt, *s.token_ids) for s in samples]
    width = max(map(len, sequences))
    ids = [[*s, *[pad] * (width - len(s))] for s in sequences]
    labels = [
        [*[IGNORED] * len(s.prompt), *s.token_ids, *[IGNORED] * (width - len(q))]
        for s, q in zip(samples, sequences, strict=True)
    ]
    positions_NT = torch.arange(width).expand(len(ids), width).contiguous()
    return Rows(torch.tensor(ids), torch.tensor(labels), positions_NT)


def _load_prompts(
    user_prompts: Sequence[list[dict[str, str]]],
    tokenizer: PreTrainedTokenizerBase,
    settings: LearnerSettings,
    *,
    generated: bool,
) -> tuple[list[list[int]], list[list[int]]]:
    """Encode distinct, short enough prompts for PPO, and held-out ones for the gate.

    Args:
        user_prompts: Conversations up to the answer.
        tokenizer: Tokenizer with a chat template.
        settings: Settings of the learner.
        generated: Whether to add prompts of the generated demonstrations.

    """
    demonstrations = (
        islice(_demonstration_prompts(settings.seed), _MAX_DEMONSTRATION_PROMPTS)
        if generated
        else ()
    )
    learned: dict[str, list[int]] = {}
    held_out: dict[str, list[int]] = {}
    for messages in (*user_prompts, *demonstrations):
        if not messages:
            continue
        key = prompt_key(messages)
        split = prompt_split(
            key,
            held_out_share=settings.reward.held_out_share,
            judge_share=settings.reward.judge_share,
        )
        part = held_out if split == "held_out" else learned
        if key not in part:
            part[key] = encode_chat(tokenizer, messages, answer=True)
    limit = settings.ppo.max_prompt_tokens
    short = [[p for p in part.values() if len(p) <= limit] for part in (learned, held_out)]
    return short[0], _repeat_prompts(short[1], settings.gate.prompts)


def _demonstration_prompts(seed: int) -> Iterator[list[dict[str, str]]]:
    """Return the generated conversations of SFT, each without its last answer."""
    return (conversation[:-1] for conversation in corpus.conversations(seed))


def encode_demonstration_prompts(
    tokenizer: PreTrainedTokenizerBase, seed: int, count: int
) -> list[list[int]]:
    """Encode the prompts of the first generated demonstrations."""
    return [
        encode_chat(tokenizer, m, answer=True) for m in islice(_demonstration_prompts(seed), count)
    ]


def _repeat_prompts(prompts: list[list[int]], count: int) -> list[list[int]]:
    """Return `count` prompts, repeating each up to four times; fewer if that is not enough."""
    return (prompts * 4)[:count]
