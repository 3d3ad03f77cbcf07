"""The default model's tokenizer: byte-level BPE with a chat template.

Not supported: normalisation and a beginning-of-text token, which do not help so small a model.

Texts that people write are encoded as text: a control token in them, such as `<|end|>`, is encoded
by its characters. Only those of the chat template itself become control tokens. Added tokens that
the tokenizer does not mark as special are not control tokens.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from learner.errors import DataUnusable, ModelUnusable

PAD: Final = "<|pad|>"
END_OF_TEXT: Final = "<|endoftext|>"
END: Final = "<|end|>"
SPECIALS: Final = (PAD, END_OF_TEXT, "<|user|>", "<|assistant|>", "<|system|>", END)

EXAMPLE_ANSWER: Final = "xyz"
EXAMPLE_CHAT: Final = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": EXAMPLE_ANSWER},
]

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
    """Return the token ids of plain text, without special tokens in it or around it."""
    controls = _control_tokens(tokenizer)
    parts = re.split(f"({'|'.join(map(re.escape, controls))})", text) if controls else [text]
    return [
        token
        for number, part in enumerate(parts)
        if part
        for token in _encode(tokenizer, part, as_text=number % 2 == 1)
    ]


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the special tokens, longer ones first."""
    added = tokenizer.added_tokens_decoder.values()
    return sorted({token.content for token in added if token.special}, key=len, reverse=True)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, as_text: bool = False) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=as_text)
    return ids


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    answer: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """Return the token ids of a conversation.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: Messages with role and content, and tool calls as OpenAI writes them.
        answer: Append the tokens that start an assistant message.
        tools: Tools that the model is offered; None for none.

    Raises:
        ModelUnusable: The tokenizer has no chat template.

    """
    if tokenizer.chat_template is None:
        raise ModelUnusable("the model's tokenizer has no chat template")
    controls = _control_tokens(tokenizer)
    given = [_with_parsed_arguments(message) for message in messages]
    mark = _unused_mark(json.dumps([given, tools], ensure_ascii=False))
    text = tokenizer.apply_chat_template(
        [_mark_controls(message, controls, mark) for message in given],
        tools=_mark_controls(tools, controls, mark),
        tokenize=False,
        add_generation_prompt=answer,
    )
    assert isinstance(text, str)
    ids: list[int] = []
    for number, part in enumerate(re.split(f"{mark}([0-9]+){mark}", text)):
        if number % 2:
            ids += _encode(tokenizer, controls[int(part)], as_text=True)
        elif part:
            ids += _encode(tokenizer, part)
    return ids


def _with_parsed_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with the arguments of its tool calls as objects, as templates take them."""
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    return {**message, "tool_calls": [_with_parsed_call(call) for call in calls]}


def _with_parsed_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            return dict(call)
    return {**call, "function": {**function, "arguments": arguments}}


def _unused_mark(texts: str) -> str:
    """Return a character for private use that the texts do not contain."""
    return next(mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in texts)


def _mark_controls(value: Any, controls: Sequence[str], mark: str) -> Any:
    """Replace the control tokens in texts by their numbers between two marks, in any nesting."""
    if isinstance(value, Mapping):
        return {name: _mark_controls(each, controls, mark) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_mark_controls(each, controls, mark) for each in value]
    if not isinstance(value, str) or not any(control in value for control in controls):
        return value
    pattern = re.compile("|".join(map(re.escape, controls)))
    return pattern.sub(lambda found: f"{mark}{controls.index(found[0])}{mark}", value)


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


def check_template(name: object, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the tokenizer's chat template renders a turn of a user and one of an assistant.

    Raises:
        ModelUnusable: There is no chat template, or it fails.

    """
    if tokenizer.chat_template is None:
        raise ModelUnusable(
            f"the tokenizer of '{name}' has no chat template, so it cannot chat; "
            "use an instruction-tuned model, or add chat_template.jinja to its folder"
        )
    try:
        encode_chat(tokenizer, EXAMPLE_CHAT, answer=False)
        encode_chat(tokenizer, EXAMPLE_CHAT[:1], answer=True)
    except Exception as error:  # a template is a program, which can raise anything
        raise ModelUnusable(
            f"the chat template of '{name}' cannot render a turn of a user and one of an assistant "
            f"({type(error).__name__}: {error}); fix chat_template.jinja in its folder"
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
    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)  # that of unknown tokens if missing
    if end_of_text is not None and tokenizer.convert_ids_to_tokens(end_of_text) == END_OF_TEXT:
        ids.append(end_of_text)
    if ids[0] is None:
        raise ModelUnusable("the model's tokenizer has no end token")
    return tuple(dict.fromkeys(int(i) for i in ids))


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return an id for padding: the pad token or, since masks mark the padding, any other id."""
    pad = tokenizer.pad_token_id
    return int(pad) if pad is not None else 0
