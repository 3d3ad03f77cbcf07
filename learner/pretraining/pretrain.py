"""Pre-training: a small Llama from random weights, on the generated corpus or any text files.

Left out: deduplication, shards, data weighting. The corpus is read up to the token budget.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from learner import corpus
from learner.data.packing import Rows, pack_documents
from learner.data.tokenizer import train_tokenizer
from learner.errors import DataUnusable
from learner.models.loading import best_device, new_model
from learner.models.saving import model_exists, save_model
from learner.pretraining.next_token import TrainingStage, train
from learner.pretraining.progress import OnAdvance, ProgressBar
from learner.settings import Dtype, PretrainSettings

_TOKENIZER_CHARACTERS = 1_500_000
# Held-out text is the generated corpus under this seed, which training never uses.
_HELD_OUT_SEED = 9_999_991


def pretrain(
    out: Path,
    *,
    text: Sequence[Path] | None = None,
    settings: PretrainSettings | None = None,
    dtype: Dtype = "float32",
    progress: OnAdvance | None = None,
) -> Path:
    """Train a model from random weights, and write it to `out` in Hugging Face format.

    Goes on where it was killed; gives `out` at once where it is there already.

    Args:
        text: Text files (documents between blank lines) or JSONL files of {"text": …};
            None for the generated corpus.
        progress: Called after every step; None draws a bar.

    Raises:
        DataUnusable: The files are absent, empty or malformed.

    """
    if model_exists(out):
        return out
    settings = settings or PretrainSettings()
    work = out.with_name(f".{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(text, settings)
    rows = pack_documents(
        documents(text, settings.seed, repeat=True),
        tokenizer,
        row=settings.row,
        tokens=settings.tokens,
    )
    if not len(rows):
        raise DataUnusable(f"the text fills not even one row of {settings.row} tokens")
    model = new_model(settings, tokenizer).to(best_device())
    stage = TrainingStage(
        name="Pre-training",
        state=work / "state.pt",
        key=f"pretrain {fingerprint(rows)}",
        dtype=dtype,
        settings=settings,
    )
    if progress is not None:
        train(model, rows, stage, progress)
    else:
        with ProgressBar() as bar:
            train(model, rows, stage, bar)
    return save_model(model, tokenizer, out)


def _tokenizer(text: Sequence[Path] | None, settings: PretrainSettings) -> PreTrainedTokenizerBase:
    texts = take_characters(_TOKENIZER_CHARACTERS, documents(text, settings.seed, repeat=False))
    return train_tokenizer(texts, vocabulary=settings.vocabulary, context=settings.context)


def take_characters(characters: int, texts: Iterable[str]) -> Iterator[str]:
    """Yield texts until they have so many characters."""
    seen = 0
    for one in texts:
        yield one
        seen += len(one)
        if seen >= characters:
            return


def documents(text: Sequence[Path] | None, seed: int, *, repeat: bool) -> Iterator[str]:
    """Yield the documents of the files, or of the generated corpus, which has no end."""
    if text is None:
        yield from corpus.pretraining_documents(seed)
        return
    found = [document for path in text for document in _read(path)]
    if not found:
        raise DataUnusable(f"no text in {', '.join(map(str, text)) or 'no files'}")
    yield from cycle(found) if repeat else found


def _read(path: Path) -> Iterator[str]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnusable(f"{path} cannot be read as UTF-8 text: {error}") from error
    if path.suffix != ".jsonl":
        yield from (part.strip() for part in content.split("\n\n") if part.strip())
        return
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            yield str(json.loads(line)["text"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataUnusable(f'{path}, line {number}: not {{"text": …}}') from error


def fingerprint(rows: Rows) -> str:
    """Return a short hash of the rows, to know that a run is resumed on the same data."""
    return hashlib.sha256(rows.input_ids_NT.numpy().tobytes()).hexdigest()[:16]


def held_out_text(
    tokenizer: PreTrainedTokenizerBase,
    text: Sequence[Path] | None = None,
    *,
    row: int = 256,
    tokens: int = 16_384,
) -> Rows:
    """Pack text that pre-training does not see: another seed, or the files' last documents."""
    if text is None:
        source: Iterable[str] = corpus.pretraining_documents(_HELD_OUT_SEED)
    else:
        found = list(documents(text, 0, repeat=False))
        source = found[-max(1, len(found) // 20) :]
    return pack_documents(source, tokenizer, row=row, tokens=tokens)
