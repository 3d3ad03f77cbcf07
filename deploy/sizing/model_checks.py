"""Checks that a user's model can be served and trained, made before any training.

`choose_end` and `choose_pad` also settle which tokens end an answer and pad a row. Whether a model
fits the machine is a matter of `deploy.sizing.plan`.
"""

import os
from typing import Any, Final

from jinja2 import TemplateError

from deploy.errors import DeployError
from learner.data.tokenizer import encode_chat, end_token_ids
from learner.errors import LearnerError

_PROBE: Final = "xyz"
_CHAT: Final = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}]
_TOLERANCE: Final = 1e-3  # nats; rounding changes logits by far less, another conversation by more


def check_config(name: str, config: Any) -> None:
    """Check a model's configuration, before its weights are loaded.

    Raises:
        DeployError: The model is an encoder-decoder, or quantised.

    """
    if getattr(config, "is_encoder_decoder", False):
        raise DeployError(
            f"'{name}' is an encoder-decoder ({config.model_type}); "
            "Plaudit needs a decoder-only model, such as Llama, Qwen, Gemma, GPT-2 or Mistral"
        )
    if getattr(config, "quantization_config", None):
        raise DeployError(
            f"'{name}' is quantised, but Plaudit trains full-precision weights; "
            "use the original model that it was made from"
        )


def check_chat(name: str, tokenizer: Any) -> None:
    """Check that the tokenizer's chat template can render a conversation and end an answer.

    Raises:
        DeployError: The template is missing or fails, or the tokenizer has no end token.

    """
    if tokenizer.chat_template is None:
        raise DeployError(
            f"the tokenizer of '{name}' has no chat template, so it cannot chat; "
            "use an instruction-tuned model, or add chat_template.jinja to its folder"
        )
    try:
        encode_chat(tokenizer, _CHAT, answer=False)
    except TemplateError as error:
        raise DeployError(
            f"the chat template of '{name}' cannot render a turn of a user and one of an assistant "
            f"({error}); fix chat_template.jinja in its folder"
        ) from error
    if tokenizer.eos_token_id is None and chat_end_token(tokenizer) is None:
        raise DeployError(
            f"the tokenizer of '{name}' has no end token, so answers would never end; "
            "set eos_token in tokenizer_config.json"
        )


def check_vocabulary(name: str, tokenizer: Any, model: Any) -> None:
    """Check that the model has an embedding for every token id.

    Raises:
        DeployError: The tokenizer has token ids beyond the embedding.

    """
    rows = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise DeployError(
            f"the tokenizer of '{name}' has ids up to {largest}, but the model embeds only {rows}; "
            "save the model after model.resize_token_embeddings(len(tokenizer)), "
            "or use the tokenizer that it was trained with"
        )


def chat_end_token(tokenizer: Any) -> str | None:
    """Return the special token with which the chat template ends an answer, or None."""
    text = tokenizer.apply_chat_template(_CHAT, tokenize=False)
    rest = tokenizer.encode(text.rpartition(_PROBE)[2], add_special_tokens=False)
    special = set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids)
    return tokenizer.convert_ids_to_tokens(rest[0]) if rest and rest[0] in special else None


def choose_end(tokenizer: Any) -> str | None:
    """Make the end token that of the chat template; return a message if this changes it.

    For example, Gemma's tokenizer declares <eos>, but its answers end with <end_of_turn>.
    """
    closing = chat_end_token(tokenizer)
    if closing is None or closing == tokenizer.eos_token:
        return None
    before, tokenizer.eos_token = tokenizer.eos_token, closing
    return f"Answers end with {closing}, as in the chat template, instead of {before}."


def choose_pad(name: str, tokenizer: Any, model: Any) -> str | None:
    """Make sure that the pad token is not an end token; return a message if this changes it.

    Raises:
        DeployError: No special token is free, and the embedding has no spare row for a new one.

    """
    ends = end_token_ids(tokenizer)
    before = tokenizer.pad_token
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends:
        return None
    unused = _unused_special(tokenizer, ends)
    if unused is not None:
        tokenizer.pad_token = unused
    elif max(tokenizer.get_vocab().values()) + 1 < model.get_input_embeddings().num_embeddings:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    else:
        reason = f"pads with {before}, which ends an answer" if before else "has no pad token"
        raise DeployError(
            f"the tokenizer of '{name}' {reason}, and no other special token is free; add one with "
            "tokenizer.add_special_tokens({'pad_token': '<|pad|>'}) and "
            "model.resize_token_embeddings(len(tokenizer)), and save both"
        )
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
    return (
        f"The pad token is {tokenizer.pad_token} instead of {before or 'unset'}, because it must "
        "not end an answer."
    )


def _unused_special(tokenizer: Any, ends: tuple[int, ...]) -> str | None:
    """Return a special token that neither begins nor ends text, and is not in the chat template."""
    taken = {*ends, tokenizer.bos_token_id}
    free = [
        token
        for token, number in sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
        if number not in taken and token not in str(tokenizer.chat_template)
    ]
    named = [t for t in free if any(w in t.lower() for w in ("pad", "reserved", "unused"))]
    return next(iter(named or free[::-1]), None)


def check_served(name: str, model: Any) -> None:
    """Check that vLLM supports the model's class; imports vLLM, which takes seconds.

    Raises:
        DeployError: vLLM does not support the architecture.

    """
    check_architecture(name, type(model).__name__)


def check_architecture(name: str, architecture: str) -> None:
    """Check that vLLM supports the model class named `architecture`; imports vLLM.

    Raises:
        DeployError: vLLM does not support the architecture.

    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import __version__
    from vllm.model_executor.models.registry import ModelRegistry

    if architecture not in ModelRegistry.get_supported_archs():
        raise DeployError(
            f"vLLM {__version__} cannot serve '{name}': it does not support {architecture}; use a "
            "model of an architecture in https://docs.vllm.ai/en/latest/models/supported_models.html"
        )


def serves_adapters(architecture: str) -> bool:
    """Return whether vLLM can serve LoRA adapters of an architecture; imports vLLM."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    known = ModelRegistry.models.get(architecture)
    return known is not None and supports_lora(known.load_model_cls())


def check_trained(name: str, tokenizer: Any, model: Any) -> None:
    """Check that two conversations packed into one row, as in training, do not affect each other.

    Raises:
        DeployError: The second conversation attends to the first, or the model takes no positions.

    """
    import torch

    one, other = (
        encode_chat(tokenizer, _CHAT, answer=False),
        encode_chat(tokenizer, _CHAT[:1], answer=True),
    )
    ids = torch.tensor([one + other])
    positions = torch.tensor([[*range(len(one)), *range(len(other))]])
    try:
        with torch.no_grad():
            packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
            alone = model(input_ids=ids[:, len(one) :], use_cache=False).logits
    except (TypeError, ValueError, LearnerError) as error:
        raise DeployError(f"'{name}' cannot be trained on packed rows: {error}") from error
    if (packed[:, len(one) :] - alone).abs().max() > _TOLERANCE:
        raise DeployError(
            f"'{name}' ({type(model).__name__}) cannot be trained, because conversations packed "
            "into one row attend to each other; use another architecture"
        )
