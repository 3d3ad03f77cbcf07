"""Tiny random-weight models of five architectures, saved in the layout of their publishers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from learner.data.tokenizer import train_tokenizer

CONTEXT: Final = 1024
WINDOW: Final = 16  # of sliding-window attention; shorter than the tests' sequences
_TEXT: Final = "How do I make tea? Boil water, pour it over the leaves, and wait. Tell me more."


def _sizes(layers: int) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.1,
    }


def _gpt2(**ids: Any) -> PreTrainedConfig:
    # GPT-2 has dropout by default, and its output head is tied to the embedding.
    return GPT2Config(
        n_embd=64, n_layer=2, n_head=2, n_positions=CONTEXT, initializer_range=0.1, **ids
    )


ARCHITECTURES: Final[dict[str, Callable[..., PreTrainedConfig]]] = {
    "llama": lambda **ids: LlamaConfig(**_sizes(2), tie_word_embeddings=False, **ids),
    "qwen": lambda **ids: Qwen3Config(**_sizes(2), tie_word_embeddings=True, **ids),
    # Sliding-window and full attention alternate; each kind has its own rotary frequencies.
    "gemma": lambda **ids: Gemma3TextConfig(
        **_sizes(2),
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=32,
        **ids,
    ),
    "gpt2": _gpt2,
    "mistral": lambda **ids: MistralConfig(**_sizes(2), sliding_window=WINDOW, **ids),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a small tokenizer with a chat template, trained like the default model's."""
    return train_tokenizer([_TEXT] * 4, vocabulary=320, context=CONTEXT)


def tiny_model(name: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> PreTrainedModel:
    """Return a model of one architecture with random weights, norms and biases included."""
    torch.manual_seed(seed)
    config = ARCHITECTURES[name](
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    # Norms and biases start at 1 and 0, which would hide that they were not loaded.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def save_tiny(name: str, folder: Path, seed: int = 0) -> Path:
    """Save a tiny model and its tokenizer with `save_pretrained`; return the folder."""
    tokenizer = tiny_tokenizer()
    tiny_model(name, tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
