"""Build a language model with random weights, or load one from a model folder."""

from pathlib import Path

import torch
import transformers.utils.logging
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from learner.data.tokenizer import end_token_ids
from learner.errors import ModelUnusable
from learner.models.adapters import is_adapter, load_adapter, merge_adapter
from learner.models.checks import check_complete, read_model
from learner.models.parameters import copy_shared, is_trainable
from learner.models.precision import freeze
from learner.settings import PretrainSettings

transformers.utils.logging.disable_progress_bar()  # loading bars clutter the logs


def new_model(settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return a Llama model with random weights drawn from the settings' seed."""
    torch.manual_seed(settings.seed)
    ends = list(end_token_ids(tokenizer))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        # Llama's default of 0.02 suits wide models; a narrow one starts to learn sooner with this.
        initializer_range=settings.initial_deviation,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    return model


def best_device() -> torch.device:
    """Return the first visible GPU, or the CPU if there is none.

    CUDA_VISIBLE_DEVICES decides which GPUs are visible.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path | str, device: torch.device | None = None) -> PreTrainedModel:
    """Load a causal language model in float32 and in evaluation mode.

    Args:
        folder: Model folder in Hugging Face format.
        device: Device of the weights; the CPU by default.

    Raises:
        ModelUnusable: The folder holds no causal language model, or not all of its weights.

    """
    model, missing = read_model(folder, dtype=torch.float32)
    check_complete(folder, missing)
    return model.to(device or "cpu").eval()


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Raises:
        ModelUnusable: The folder holds no tokenizer, or a damaged one.

    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizer libraries raise errors of many types
        reason = " ".join(str(error).split("\n")[0].split())
        raise ModelUnusable(f"{folder} holds no tokenizer that can be read: {reason}") from error
    return tokenizer


def load_variant(
    model: PreTrainedModel, folder: Path | str, base: Path | str | None = None
) -> PreTrainedModel:
    """Load another policy of the model's family, set up for training in the same way.

    If `model` is frozen, full weights are frozen too (shared with `model` if they are equal) and
    an adapter stays an adapter. Otherwise all weights are trained, and an adapter is merged.

    Args:
        model: Model whose dtype, device and frozen weights the result follows.
        folder: Folder with full weights or with an adapter.
        base: Folder with the full weights below an adapter.

    """
    trains_all = is_trainable(model)
    if is_adapter(folder):
        assert base is not None, "an adapter needs the folder of its base"
        weights = load_variant(model, base)
        return merge_adapter(weights, folder) if trains_all else load_adapter(weights, folder)
    other = load_model(folder, model.device)
    if trains_all:
        return other
    freeze(other, "bfloat16" if model.dtype == torch.bfloat16 else "float32")
    loaded = dict(other.named_parameters())
    if all(torch.equal(p, loaded[name]) for name, p in model.named_parameters()):
        return copy_shared(model)
    return other


def sampling_temperature(model: PreTrainedModel) -> float:
    """Return the temperature in the model's generation config; 1 if it names none."""
    config = model.generation_config
    if config is None or not config.do_sample:
        return 1.0
    return float(config.temperature or 1.0)
