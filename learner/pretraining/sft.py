"""Supervised fine-tuning (SFT) on conversations, with a loss on the assistant's tokens only.

Not supported: conversations across two rows, and weights of turns.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from learner import corpus
from learner.data.packing import (
    Rows,
    concat_rows,
    fingerprint,
    pack_conversations,
    pack_documents,
)
from learner.errors import DataUnusable
from learner.models.loading import best_device, load_model, load_tokenizer
from learner.models.saving import model_exists, save_model
from learner.pretraining.documents import documents
from learner.pretraining.next_token import TrainingStage, train
from learner.pretraining.progress import OnAdvance, progress_or_bar
from learner.settings import Dtype, SftSettings

Messages = list[dict[str, str]]


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
        data: JSONL file of {"messages": [{"role", "content"}, …]}; None for generated
            conversations.
        text: Text files to mix in, so that text completion does not regress. If None, the
            generated corpus is mixed into generated conversations, and nothing into others.
        settings: Hyperparameters; defaults if None.
        dtype: Format to compute matrix products in.
        progress: Callback after every step; if None, a progress bar is drawn.

    Raises:
        DataUnusable: A file is missing, empty or malformed.
        ModelUnusable: `base` holds no model, or its tokenizer has no chat template.

    """
    if model_exists(out):
        return out
    settings = settings or SftSettings()
    work = out.with_name(f".{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(base)
    model = load_model(base, best_device())
    rows = _pack_rows(data, text, tokenizer, settings)
    stage = TrainingStage(
        name="Fine-tuning",
        state=work / "state.pt",
        key=f"sft {fingerprint(rows)}",
        dtype=dtype,
        settings=settings,
    )
    with progress_or_bar(progress) as on_advance:
        train(model, rows, stage, on_advance)
    return save_model(model, tokenizer, out)


def _pack_rows(
    data: Path | None,
    text: Sequence[Path] | None,
    tokenizer: PreTrainedTokenizerBase,
    settings: SftSettings,
) -> Rows:
    """Pack the conversations, and behind them the share of plain text."""
    share = settings.text_share if text is not None or data is None else 0.0
    text_tokens = int(settings.tokens * share)
    chats = pack_conversations(
        conversations(data, settings.seed),
        tokenizer,
        row=settings.row,
        tokens=settings.tokens - text_tokens,
    )
    if text_tokens < settings.row:
        return chats
    # Another seed than that of pre-training, whose first documents would be repeated otherwise.
    source = documents(text, settings.seed + 1, repeat=True)
    return concat_rows(
        chats, pack_documents(source, tokenizer, row=settings.row, tokens=text_tokens)
    )


def conversations(data: Path | None, seed: int) -> Iterator[Messages]:
    """Yield conversations without end: those of the file repeatedly, or generated ones."""
    if data is None:
        yield from corpus.conversations(seed)
        return
    yield from cycle(read_conversations(data))


def read_conversations(data: Path) -> list[Messages]:
    """Read the conversations of a JSONL file of {"messages": […]}.

    Raises:
        DataUnusable: The file is missing or empty, or a line is malformed.

    """
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnusable(f"{data} cannot be read as UTF-8 text: {error}") from error
    found = [
        _parse_messages(data, n, line) for n, line in enumerate(lines, start=1) if line.strip()
    ]
    if not found:
        raise DataUnusable(f"{data} holds no conversations")
    return found


def _parse_messages(data: Path, number: int, line: str) -> Messages:
    try:
        messages = [
            {"role": str(m["role"]), "content": str(m["content"])}
            for m in json.loads(line)["messages"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataUnusable(
            f'{data}, line {number}: expected {{"messages": [{{"role": ..., "content": ...}}]}}'
        ) from error
    if not any(m["role"] == "assistant" for m in messages):
        raise DataUnusable(f"{data}, line {number}: no message has the role 'assistant'")
    return messages
