"""Supervised fine-tuning on conversations: the loss is on what the assistant says.

Left out: packing across the row's end, and weighting of turns.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from learner import corpus
from learner.data.packing import Rows, concat_rows, pack_conversations, pack_documents
from learner.errors import DataUnusable
from learner.models.loading import best_device, load_model, load_tokenizer
from learner.models.saving import model_exists, save_model
from learner.pretraining.next_token import TrainingStage, train
from learner.pretraining.pretrain import documents, fingerprint
from learner.pretraining.progress import OnAdvance, ProgressBar
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
    """Fine-tune the model in `base` on demonstrations, and write it to `out`.

    Goes on where it was killed; gives `out` at once where it is there already.

    Args:
        data: JSONL of {"messages": [{"role", "content"}, …]}; None for the generated ones.
        text: Text files to mix in, so that text completion is not forgotten; None mixes in the
            generated corpus beside the generated demonstrations, and nothing beside others.
        progress: Called after every step; None draws a bar.

    Raises:
        DataUnusable: The file is absent, empty or malformed.
        ModelUnusable: `base` holds no model, or its tokenizer has no chat template.

    """
    if model_exists(out):
        return out
    settings = settings or SftSettings()
    work = out.with_name(f".{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(base)
    model = load_model(base, best_device())
    rows = _rows(data, text, tokenizer, settings)
    stage = TrainingStage(
        name="Fine-tuning",
        state=work / "state.pt",
        key=f"sft {fingerprint(rows)}",
        dtype=dtype,
        settings=settings,
    )
    if progress is not None:
        train(model, rows, stage, progress)
    else:
        with ProgressBar() as bar:
            train(model, rows, stage, bar)
    return save_model(model, tokenizer, out)


def _rows(
    data: Path | None,
    text: Sequence[Path] | None,
    tokenizer: PreTrainedTokenizerBase,
    settings: SftSettings,
) -> Rows:
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
    # A seed of its own, so that it is not the text that pre-training began with.
    source = documents(text, settings.seed + 1, repeat=True)
    return concat_rows(
        chats, pack_documents(source, tokenizer, row=settings.row, tokens=text_tokens)
    )


def conversations(data: Path | None, seed: int) -> Iterator[Messages]:
    """Yield conversations without end: the file's over and over, or generated ones."""
    if data is None:
        yield from corpus.conversations(seed)
        return
    yield from cycle(read_conversations(data))


def read_conversations(data: Path) -> list[Messages]:
    """Read a JSONL file of {"messages": […]}.

    Raises:
        DataUnusable: It is absent or empty, or a line is something else.

    """
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnusable(f"{data} cannot be read as UTF-8 text: {error}") from error
    found = [_messages(data, n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise DataUnusable(f"{data} holds no conversations")
    return found


def _messages(data: Path, number: int, line: str) -> Messages:
    try:
        messages = [
            {"role": str(m["role"]), "content": str(m["content"])}
            for m in json.loads(line)["messages"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataUnusable(f'{data}, line {number}: not {{"messages": [...]}}') from error
    if not any(m["role"] == "assistant" for m in messages):
        raise DataUnusable(f"{data}, line {number}: the assistant says nothing")
    return messages
