"""The default model's tokenizer: byte-level BPE with a chat template.

Not supported: normalisation and a beginning-of-text token, which do not help so small a model.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from learner.errors import DataUnusable, ModelUnusable

PAD: Final = "<|pad|>"
END_OF_TEXT: Final = "<|endoftext|>"
END: Final = "<|end|>"
SPECIALS: Final = (PAD, END_OF_TEXT, "<|user|>", "<|assistant|>", "<|system|>", END)

CHAT_TEMPLATE: Final = """\
{%- for message in messages -%}
{%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
{%- if role not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('This model knows the roles system, user and assistant') -}}
{%- endif -%}
{{- '<|' + role + '|>' + message['content'] | trim + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def train_tokenizer(
    texts: Iterable[str], *, vocabulary: int, context: int
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts`; the same texts give the same tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[s for s in SPECIALS if s not in (PAD, END)],
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of plain text, without special tokens around it."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, answer: bool
) -> list[int]:
    """Return the token ids of a conversation.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: Messages with role and content.
        answer: Append the tokens that start an assistant message.

    Raises:
        ModelUnusable: The tokenizer has no chat template.

    """
    if tokenizer.chat_template is None:
        raise ModelUnusable("the model's tokenizer has no chat template")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
    assert isinstance(text, str)
    return encode_text(tokenizer, text)


@contextmanager
def refused_messages() -> Iterator[None]:
    """Report that a chat template cannot render the messages as an error of the data.

    Raises:
        DataUnusable: The template raised an error.

    """
    try:
        yield
    except (TemplateError, TypeError) as error:
        raise DataUnusable(
            f"the model's chat template refuses the roles or their order ({error}); change the "
            "messages, or remove this row"
        ) from error


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of an answer that was written by a person, with its end token."""
    return [*encode_text(tokenizer, text.strip()), end_token_ids(tokenizer)[0]]


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that end an answer: the tokenizer's end token, then the end of text, if any.

    Raises:
        ModelUnusable: The tokenizer has no end token.

    """
    ids = [tokenizer.eos_token_id]
    if END_OF_TEXT in tokenizer.get_vocab():
        ids.append(tokenizer.convert_tokens_to_ids(END_OF_TEXT))
    if ids[0] is None:
        raise ModelUnusable("the model's tokenizer has no end token")
    return tuple(dict.fromkeys(int(i) for i in ids))


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return an id for padding: the pad token or, since masks mark the padding, any other id."""
    pad = tokenizer.pad_token_id
    return int(pad) if pad is not None else 0
