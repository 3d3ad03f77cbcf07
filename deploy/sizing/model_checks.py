"""Checks that a user's model can be served and trained, made before any training.

`choose_end` and `choose_pad` also settle which tokens end an answer and pad a row. Whether a model
fits the machine is a matter of `deploy.sizing.plan`.
"""

from typing import Any, Final

from deploy.errors import DeployError
from deploy.sizing.architectures import check_architecture
from learner.data.tokenizer import (
    EXAMPLE_ANSWER,
    EXAMPLE_CHAT,
    check_template,
    encode_chat,
    end_token_ids,
)
from learner.errors import LearnerError, ModelUnusable

_TOLERANCE: Final = 1e-3  # nats; rounding changes logits by far less, another conversation by more


def check_chat(name: str, tokenizer: Any) -> None:
    """Check that the tokenizer's chat template can render a conversation and end an answer.

    Raises:
        DeployError: The template is missing or fails, or the tokenizer has no end token.

    """
    try:
        check_template(name, tokenizer)
    except ModelUnusable as error:
        raise DeployError(str(error)) from error
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
    text = tokenizer.apply_chat_template(EXAMPLE_CHAT, tokenize=False)
    rest = tokenizer.encode(text.rpartition(EXAMPLE_ANSWER)[2], add_special_tokens=False)
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


def check_trained(name: str, tokenizer: Any, model: Any) -> None:
    """Check that two conversations packed into one row, as in training, do not affect each other.

    Raises:
        DeployError: The second conversation attends to the first, or the model takes no positions.

    """
    import torch

    one, other = (
        encode_chat(tokenizer, EXAMPLE_CHAT, answer=False),
        encode_chat(tokenizer, EXAMPLE_CHAT[:1], answer=True),
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
