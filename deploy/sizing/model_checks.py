"""Whether a model that somebody brings can be served and trained; asked before any training.

Also makes two choices that its folder leaves open: the token that ends an answer, and a token to
pad with. Left out: whether it fits the machine, which is `deploy.sizing.plan`'s.
"""

import os
from typing import Any, Final

from jinja2 import TemplateError

from deploy.errors import DeployError
from learner.data.tokenizer import encode_chat, end_token_ids
from learner.errors import LearnerError

_PROBE: Final = "xyz"
_CHAT: Final = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}]
_TOLERANCE: Final = 1e-3  # nats; float32 rounding is far below, another conversation far above


def check_config(name: str, config: Any) -> None:
    """Look at config.json, before weights are read.

    Raises:
        DeployError: It is an encoder-decoder or quantised.

    """
    if getattr(config, "is_encoder_decoder", False):
        raise DeployError(
            f"'{name}' is an encoder-decoder ({config.model_type}); "
            "Plaudit needs a decoder-only model, such as a Llama, Qwen, Gemma, GPT-2 or Mistral"
        )
    if getattr(config, "quantization_config", None):
        raise DeployError(
            f"'{name}' is quantised; Plaudit trains full-precision weights: "
            "give the original model that it was made from"
        )


def check_chat(name: str, tokenizer: Any) -> None:
    """Look at the chat template.

    Raises:
        DeployError: There is none, or it cannot render a user's turn and an assistant's.

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
            f"the chat template of '{name}' cannot render a user's and an assistant's turn "
            f"({error}); mend chat_template.jinja in its folder"
        ) from error
    if tokenizer.eos_token_id is None and chat_end_token(tokenizer) is None:
        raise DeployError(
            f"the tokenizer of '{name}' has no end token, so no answer would end; "
            "set eos_token in tokenizer_config.json"
        )


def check_vocabulary(name: str, tokenizer: Any, model: Any) -> None:
    """Compare the tokenizer with the embedding.

    Raises:
        DeployError: The tokenizer has ids that the model has no embedding for.

    """
    rows = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise DeployError(
            f"the tokenizer of '{name}' has ids up to {largest}, but the model embeds only {rows}; "
            "save the model after model.resize_token_embeddings(len(tokenizer)), "
            "or bring the tokenizer that it was trained with"
        )


def chat_end_token(tokenizer: Any) -> str | None:
    """Return the special token with which the chat template closes an answer; None without one."""
    text = tokenizer.apply_chat_template(_CHAT, tokenize=False)
    rest = tokenizer.encode(text.rpartition(_PROBE)[2], add_special_tokens=False)
    special = set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids)
    return tokenizer.convert_ids_to_tokens(rest[0]) if rest and rest[0] in special else None


def choose_end(tokenizer: Any) -> str | None:
    """End answers as the chat template does; say what was changed, None where nothing was.

    Gemma's tokenizer, for one, names <eos>, while its answers end with <end_of_turn>.
    """
    closing = chat_end_token(tokenizer)
    if closing is None or closing == tokenizer.eos_token:
        return None
    before, tokenizer.eos_token = tokenizer.eos_token, closing
    return f"Answers end with {closing}, as in the chat template, not with {before}."


def choose_pad(name: str, tokenizer: Any, model: Any) -> str | None:
    """Return a tokenizer a pad token that ends nothing; say what was changed, None if nothing was.

    Raises:
        DeployError: Every special token has a meaning, and the embedding has no row to spare.

    """
    ends = end_token_ids(tokenizer)
    before = tokenizer.pad_token
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends:
        return None
    found = _unused_special(tokenizer, ends)
    if found is not None:
        tokenizer.pad_token = found
    elif max(tokenizer.get_vocab().values()) + 1 < model.get_input_embeddings().num_embeddings:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    else:
        why = f"pads with {before}, which ends an answer" if before else "has no pad token"
        raise DeployError(
            f"the tokenizer of '{name}' {why}, and no other special token is free; add one with "
            "tokenizer.add_special_tokens({'pad_token': '<|pad|>'}) and "
            "model.resize_token_embeddings(len(tokenizer)), and save both"
        )
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
    return f"Padding is {tokenizer.pad_token}, not {before or 'unset'}: it must not end an answer."


def _unused_special(tokenizer: Any, ends: tuple[int, ...]) -> str | None:
    """Return a special token that neither begins nor ends text, nor stands in the chat template."""
    taken = {*ends, tokenizer.bos_token_id}
    free = [
        token
        for token, number in sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
        if number not in taken and token not in str(tokenizer.chat_template)
    ]
    named = [t for t in free if any(w in t.lower() for w in ("pad", "reserved", "unused"))]
    return next(iter(named or free[::-1]), None)


def check_served(name: str, model: Any) -> None:
    """Ask vLLM's registry of models; takes the time of importing vLLM.

    Raises:
        DeployError: vLLM has no such architecture.

    """
    check_architecture(name, type(model).__name__)


def check_architecture(name: str, architecture: str) -> None:
    """Ask the same of a class's name.

    Raises:
        DeployError: vLLM has no such architecture.

    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import __version__
    from vllm.model_executor.models.registry import ModelRegistry

    if architecture not in ModelRegistry.get_supported_archs():
        raise DeployError(
            f"vLLM {__version__} cannot serve '{name}': it has no {architecture}; use a model of "
            "an architecture in https://docs.vllm.ai/en/latest/models/supported_models.html"
        )


def serves_adapters(architecture: str) -> bool:
    """Tell whether vLLM serves LoRA adapters of an architecture; takes the time to import it."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    known = ModelRegistry.models.get(architecture)
    return known is not None and supports_lora(known.load_model_cls())


def check_trained(name: str, tokenizer: Any, model: Any) -> None:
    """Compare two conversations in one row with each alone, as training packs them.

    Raises:
        DeployError: The architecture lets one see the other, or takes no positions.

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
            f"'{name}' ({type(model).__name__}) cannot be trained: conversations packed into one "
            "row would see each other; use another architecture"
        )
