"""The inputs of a learning cycle: settings, reference policy, prompts and text."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from feedback.ledger.rows import RecordedLengths, RecordedPrompt
from feedback.ledger.store import Ledger
from feedback.privacy.identity import load_or_create_secret, prompt_split_key
from feedback.registry import open_registry
from learner import corpus
from learner.cycle.state import measured_rate
from learner.data.packing import IGNORED, Rows, pack_documents
from learner.data.preferences import prompt_key, prompt_split
from learner.data.tokenizer import encode_chat, pad_token_id
from learner.errors import ModelUnusable
from learner.models.adapters import add_adapter
from learner.models.compiled import compile_layers
from learner.models.hardware import learner_device, model_shape
from learner.models.loading import best_device, load_model, load_tokenizer, sampling_temperature
from learner.models.parameters import copy_shared, count_parameters, is_trainable
from learner.models.precision import freeze
from learner.models.saving import model_exists
from learner.pretraining.documents import documents, held_out_text
from learner.pretraining.next_token import text_nll
from learner.reward.features import AnswerFeatures
from learner.sampling.factory import SamplerFactory
from learner.sampling.sampler import Sample, Sampler
from learner.settings import LearnerSettings
from learner.sizing import MAX_PROMPTS, CycleSizes, Sizing
from protos.checkpoints.registry import CheckpointInvalid

logger = logging.getLogger(__name__)

_MAX_DEMONSTRATION_PROMPTS: Final = 600  # added to the prompts of users
_CHARACTERS_PER_TOKEN: Final = 64  # above which a text is not tokenised; it is blank or too long
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
        split_secret: Secret of the split of the prompts; empty for the split of earlier releases.
        samplers: Factory of samplers.
        sizes: Sizes that were chosen for the cycle.
        sizing: What was chosen and why, as sentences.
        prompts: Token ids of the prompts of PPO.
        held_out_prompts: Token ids of the gate's prompts; PPO never samples on them.
        left_out_prompts: Number of recorded prompts that are longer than the limit.
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
    split_secret: bytes = field(repr=False)
    samplers: SamplerFactory
    sizes: CycleSizes
    sizing: tuple[str, ...]
    prompts: list[list[int]]
    held_out_prompts: list[list[int]]
    left_out_prompts: int
    text: Rows
    text_by_reference: bool
    held_out_text: Rows
    base_text_nll: float

    @property
    def context(self) -> int | None:
        """Context length of the model in tokens; None if its config does not say."""
        return getattr(self.reference.config.get_text_config(), "max_position_embeddings", None)

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        return vocabulary_size(self.reference)

    @property
    def pad(self) -> int:
        """Token id for padding."""
        return pad_token_id(self.tokenizer)

    @property
    def features(self) -> AnswerFeatures:
        """Features of answers for the probe and the judge."""
        return AnswerFeatures(
            self.reference,
            self.tokenizer,
            self.pad,
            self.settings.dtype,
            self.settings.reward.micro_tokens,
        )

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


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return the number of token ids that a model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def load_inputs(
    home: Path,
    settings: LearnerSettings,
    ledger: Ledger,
    upto_seq: int,
    sizes: CycleSizes | None = None,
) -> CycleInputs:
    """Load the inputs of a cycle; the same ledger rows and sizes give the same inputs.

    Args:
        home: Home folder.
        settings: Settings of the learner, as configured.
        ledger: Source of the prompts.
        upto_seq: Last ledger row that the cycle learns from.
        sizes: Sizes of the cycle; None to choose them.

    Raises:
        ModelUnusable: The registry has no valid version 1, or the secret that signed it is missing.

    """
    reference, tokenizer, settings = load_reference(home, settings)
    knows_corpus = _knows_corpus(home)
    own_text = not (knows_corpus or settings.text)
    sizing = _sizing(home, settings, reference, ledger.lengths(MAX_PROMPTS, upto_seq))
    sizes = sizes or sizing.choose()
    settings = sizes.apply_to(settings)
    user_prompts = ledger.prompts(
        MAX_PROMPTS,
        upto_seq,
        max_characters=_CHARACTERS_PER_TOKEN * settings.ppo.max_prompt_tokens,
    )
    split_secret = load_split_secret(home)
    demonstrations = (
        _encode_demonstrations(tokenizer, settings.seed, _MAX_DEMONSTRATION_PROMPTS)
        if knows_corpus
        else []
    )
    prompts, held_out = _split_prompts(
        [*user_prompts, *demonstrations], settings, split_secret, vocabulary_size(reference)
    )
    samplers = SamplerFactory(reference, tokenizer, settings)
    text, held_out_rows = (
        _sample_text(samplers, reference, user_prompts, tokenizer, settings)
        if own_text
        else _pack_text(tokenizer, settings)
    )
    pretrained = home / "models" / "pretrained"
    base = load_model(pretrained, reference.device) if model_exists(pretrained) else reference
    return CycleInputs(
        settings=settings,
        knows_corpus=knows_corpus,
        tokenizer=tokenizer,
        reference=reference,
        split_secret=split_secret,
        samplers=samplers,
        sizes=sizes,
        sizing=tuple(sizing.lines(sizes)),
        prompts=prompts,
        held_out_prompts=held_out,
        left_out_prompts=_count_left_out(sizing.lengths, user_prompts, settings),
        text=text,
        text_by_reference=own_text,
        held_out_text=held_out_rows,
        base_text_nll=text_nll(base, held_out_rows) if len(held_out_rows) else 0.0,
    )


def _sizing(
    home: Path, settings: LearnerSettings, reference: PreTrainedModel, lengths: RecordedLengths
) -> Sizing:
    """Return what the sizes of a cycle are chosen by."""
    return Sizing(
        settings=settings,
        shape=model_shape(reference),
        device=learner_device(reference.device, settings.processes),
        lengths=lengths,
        measured_rate=measured_rate(home),
    )


def _count_left_out(
    lengths: RecordedLengths, kept: Sequence[RecordedPrompt], settings: LearnerSettings
) -> int:
    """Return how many recorded prompts are too long to be learned from, and say so."""
    limit = settings.ppo.max_prompt_tokens
    count = len(lengths.prompts) - sum(0 < len(prompt.token_ids) <= limit for prompt in kept)
    if count:
        logger.warning(
            "%d of %d recorded prompts are left out, because they are longer than %d tokens; "
            "PLAUDIT_LEARNER_PPO__MAX_PROMPT_TOKENS sets another limit",
            *(count, len(lengths.prompts), limit),
        )
    return count


def load_reference(
    home: Path, settings: LearnerSettings
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, LearnerSettings]:
    """Load version 1 and its tokenizer; return them and the settings for that model.

    Raises:
        ModelUnusable: The registry has no valid version 1.

    """
    first = _first_version(home)
    reference = load_model(first, best_device())
    settings = settings.for_model(
        count_parameters(reference),
        sampling_temperature(reference),
        own_text=not (settings.text or _knows_corpus(home)),
    )
    if settings.tune == "lora":
        freeze(reference, settings.dtype)
    return reference, load_tokenizer(first), settings


def _knows_corpus(home: Path) -> bool:
    """Return whether the policies descend from a model trained on the generated corpus."""
    pretrained = home / "models" / "pretrained"
    return model_exists(pretrained) or open_registry(home).manifest(1).base == "default"


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


def load_split_secret(home: Path) -> bytes:
    """Return the secret of the split of the prompts, derived from that of the installation.

    It is empty if an earlier release began the registry. The secret is that of the installation,
    since the manifest is signed with it.

    Raises:
        CheckpointInvalid: The manifest of version 1 is not signed with the secret in this home.

    """
    if not open_registry(home).manifest(1).keyed_split:
        return b""
    return prompt_split_key(load_or_create_secret(home / "secret.json"))


def _pack_text(tokenizer: PreTrainedTokenizerBase, settings: LearnerSettings) -> tuple[Rows, Rows]:
    """Return packed text for the pre-training loss, and held-out text to measure the loss on."""
    files, row = settings.text or None, settings.ppo.text_row
    source = documents(files, settings.seed + 2, repeat=True)
    text = pack_documents(source, tokenizer, row=row, tokens=_TEXT_TOKENS)
    return text, held_out_text(tokenizer, files, row=row, tokens=_HELD_OUT_TEXT_TOKENS)


def _sample_text(
    samplers: SamplerFactory,
    reference: PreTrainedModel,
    prompts: Sequence[RecordedPrompt],
    tokenizer: PreTrainedTokenizerBase,
    settings: LearnerSettings,
) -> tuple[Rows, Rows]:
    """Return what `_pack_text` returns, but let the reference policy write the text."""
    row = settings.ppo.text_row
    prefixes = _text_prefixes(prompts, tokenizer, row // 2)
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
    prompts: Sequence[RecordedPrompt], tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[list[int]]:
    """Encode the users' last messages, without the chat template, as prefixes of plain text.

    With the template the reference would write chat answers, and the loss on those would keep
    PPO from changing what people want changed.
    """
    size = limit * _CHARACTERS_PER_TOKEN
    last = (prompt.messages[-1]["content"][:size] for prompt in prompts if prompt.messages)
    texts = dict.fromkeys(last)
    encoded = _encode_usable(
        texts, lambda text: tokenizer(text, split_special_tokens=True)["input_ids"]
    )
    return [ids[:limit] for _, ids in encoded if ids]


def _encode_usable(
    items: Iterable[str], encode: Callable[[str], list[int]]
) -> Iterator[tuple[str, list[int]]]:
    """Yield each text with its token ids; leave out those that cannot be encoded, and say so."""
    left_out, reason = 0, ""
    for item in items:
        try:
            ids = encode(item)
        except ModelUnusable:
            raise
        except Exception as error:  # noqa: BLE001  one prompt must not stop the others
            left_out, reason = left_out + 1, reason or f"{type(error).__name__}: {error}"
            continue
        yield item, ids
    if left_out:
        logger.warning(
            "%d texts of users are left out, because they cannot be encoded; the first reason: %s",
            *(left_out, reason),
        )


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


def _split_prompts(
    recorded: Sequence[RecordedPrompt],
    settings: LearnerSettings,
    split_secret: bytes,
    vocabulary: int,
) -> tuple[list[list[int]], list[list[int]]]:
    """Return distinct, short enough prompts for PPO, and held-out ones for the gate.

    They are the token ids that the model was prompted with: rendered again, the messages would
    lack the tools and whatever else the chat template was given.

    Args:
        recorded: Prompts of users, and those of demonstrations.
        settings: Settings of the learner.
        split_secret: Secret of the split of the prompts.
        vocabulary: Number of token ids that the model knows.

    """
    learned: list[list[int]] = []
    held_out: list[list[int]] = []
    for ids, key in _distinct_prompts(recorded, vocabulary).items():
        split = prompt_split(
            key,
            held_out_share=settings.reward.held_out_share,
            secret=split_secret,
        )
        (held_out if split == "held_out" else learned).append(list(ids))
    limit = settings.ppo.max_prompt_tokens
    short = [[p for p in part if len(p) <= limit] for part in (learned, held_out)]
    return short[0], _repeat_prompts(short[1], settings.gate.prompts)


def _distinct_prompts(
    recorded: Sequence[RecordedPrompt], vocabulary: int
) -> dict[tuple[int, ...], str]:
    """Return the key of each prompt by its token ids; report those that cannot be used."""
    distinct: dict[tuple[int, ...], str] = {}
    unusable = 0
    for prompt in recorded:
        if not prompt.token_ids or max(prompt.token_ids) >= vocabulary:
            unusable += 1
        else:
            distinct.setdefault(tuple(prompt.token_ids), prompt_key(prompt.messages))
    if unusable:
        logger.warning(
            "%d prompts of users are left out, because their token ids were not recorded or "
            "belong to another model",
            unusable,
        )
    return distinct


def _encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase, seed: int, count: int
) -> list[RecordedPrompt]:
    """Return the prompts of the first generated demonstrations, which nobody has recorded."""
    return [
        RecordedPrompt(messages, encode_chat(tokenizer, messages, answer=True))
        for messages in islice(_demonstration_prompts(seed), count)
    ]


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
