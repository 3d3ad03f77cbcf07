"""Supervised fine-tuning (SFT) on conversations, with a loss on the assistant's tokens only.

Not supported: conversations across two rows, and weights of turns.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, field_validator
from transformers import PreTrainedTokenizerBase

from learner import corpus
from learner.data.json_lines import ChatMessage, StrictRow
from learner.data.packing import (
    Conversation,
    Rows,
    concat_rows,
    encode_conversation,
    fingerprint,
    pack_conversations,
    pack_documents,
)
from learner.data.shapes import demonstrations
from learner.data.sources import open_rows
from learner.data.tokenizer import check_template, refused_messages
from learner.models.checks import check_folder
from learner.models.loading import best_device, load_model, load_tokenizer
from learner.models.saving import model_exists, save_model
from learner.pretraining.documents import documents
from learner.pretraining.next_token import TrainingStage, train
from learner.pretraining.progress import OnAdvance, packing_progress, progress_or_bar
from learner.settings import Dtype, SftSettings


class _Demonstration(StrictRow):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None

    @field_validator("messages")
    @classmethod
    def _check_roles(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        answers = [
            message.content or ("" if not message.tool_calls else "a call")
            for message in messages
            if message.role == "assistant"
        ]
        if not answers:
            raise ValueError("no message has the role 'assistant'; add an answer to learn")
        if messages[0].role == "assistant":
            raise ValueError("the first message is the assistant's; put the user's before it")
        if not all(map(str.strip, answers)):
            raise ValueError("an answer of the assistant is empty; write it, or remove this row")
        return messages

    def conversation(self) -> Conversation:
        """Return the messages as dictionaries, and the tools."""
        return Conversation([message.whole() for message in self.messages], self.tools)


_DEMONSTRATIONS: Final = TypeAdapter(_Demonstration)
_FORM: Final = '{"messages": [{"role": "...", "content": "..."}]}'


def sft(
    base: Path,
    out: Path,
    *,
    data: Path | None = None,
    text: Sequence[Path] | None = None,
    settings: SftSettings | None = None,
    dtype: Dtype = "float32",
    progress: OnAdvance | None = None,
) -> Path:
    """Fine-tune the model in `base` on demonstrations, write it to `out` and return `out`.

    An interrupted run is resumed. If `out` holds a model already, nothing is done.

    Args:
        base: Folder of the pre-trained model.
        out: Folder to write the model to.
        data: Conversations in any form that `learner.data.sources` opens, in the shapes of
            `learner.data.shapes.demonstrations`; None for generated conversations.
        text: Text files to mix in, so that text completion does not regress. If None, the
            generated corpus is mixed into generated conversations, and nothing into others.
        settings: Hyperparameters; defaults if None.
        dtype: Format to compute matrix products in.
        progress: Callback after every packed document and step; if None, a bar is drawn.

    Raises:
        DataUnusable: A file is missing, empty or malformed.
        ModelUnusable: `base` holds no model that can be trained, or its tokenizer has no chat
            template that works.

    """
    if model_exists(out):
        return out
    settings = settings or SftSettings()
    check_folder(base)
    tokenizer = load_tokenizer(base)
    check_template(base, tokenizer)
    work = out.with_name(f".{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    model = load_model(base, best_device())
    with progress_or_bar(progress) as on_advance:
        rows = _pack_rows(data, text, tokenizer, settings, on_advance)
        stage = TrainingStage(
            name="Fine-tuning",
            state=work / "state.pt",
            key=f"sft {fingerprint(rows)}",
            dtype=dtype,
            settings=settings,
        )
        train(model, rows, stage, on_advance)
    return save_model(model, tokenizer, out)


def _pack_rows(
    data: Path | None,
    text: Sequence[Path] | None,
    tokenizer: PreTrainedTokenizerBase,
    settings: SftSettings,
    on_advance: OnAdvance,
) -> Rows:
    """Pack the conversations, and behind them the share of plain text."""
    share = settings.text_share if text is not None or data is None else 0.0
    text_tokens = int(settings.tokens * share)
    chat_tokens = settings.tokens - text_tokens
    chats = pack_conversations(
        conversations(data, tokenizer, settings.seed),
        tokenizer,
        row=settings.row,
        tokens=chat_tokens,
        on_packed=packing_progress("Packing conversations", chat_tokens, on_advance),
    )
    if text_tokens < settings.row:
        return chats
    # Another seed than that of pre-training, whose first documents would be repeated otherwise.
    source = documents(text, settings.seed + 1, repeat=True)
    packed = pack_documents(
        source,
        tokenizer,
        row=settings.row,
        tokens=text_tokens,
        on_packed=packing_progress("Packing text", text_tokens, on_advance),
    )
    return concat_rows(chats, packed)


def conversations(
    data: Path | None, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Iterator[Conversation]:
    """Yield conversations without end: those of the data repeatedly, or generated ones.

    Args:
        data: See `sft`.
        tokenizer: Tokenizer that all rows of the file are checked with before the first is used.
        seed: Seed of the generated conversations.

    Raises:
        DataUnusable: The file cannot be read or has no rows, or some rows cannot be used.
        ModelUnusable: The tokenizer has no chat template.

    """
    if data is None:
        yield from map(Conversation, corpus.conversations(seed))
        return

    def encode(row: _Demonstration) -> None:
        with refused_messages():
            messages, tools = row.conversation()
            encode_conversation(messages, tokenizer, tools)

    rows = open_rows(data, _DEMONSTRATIONS, _FORM, demonstrations)
    rows.check(encode)
    while True:
        yield from (row.conversation() for row in rows)
