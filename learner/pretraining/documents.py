"""Documents to train on: the generated corpus, or text files."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from learner import corpus
from learner.data.packing import Rows, pack_documents
from learner.errors import DataUnusable

_HELD_OUT_SEED = 9_999_991  # of held-out generated text; training never uses this seed


def take_characters(characters: int, texts: Iterable[str]) -> Iterator[str]:
    """Yield texts until they have at least `characters` characters in total."""
    seen = 0
    for one in texts:
        yield one
        seen += len(one)
        if seen >= characters:
            return


def documents(text: Sequence[Path] | None, seed: int, *, repeat: bool) -> Iterator[str]:
    """Yield the documents of the text files, or of the generated corpus, which is endless.

    Args:
        text: Text files, or JSONL files of {"text": …}; None for the generated corpus.
        seed: Seed of the generated corpus.
        repeat: Repeat the files' documents without end.

    Raises:
        DataUnusable: A file cannot be read or is malformed, or there are no documents.

    """
    if text is None:
        yield from corpus.pretraining_documents(seed)
        return
    found = [document for path in text for document in _read(path)]
    if not found:
        raise DataUnusable(
            f"no text in {', '.join(map(str, text))}" if text else "no text files are given"
        )
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
            raise DataUnusable(f'{path}, line {number}: expected {{"text": "..."}}') from error


def held_out_text(
    tokenizer: PreTrainedTokenizerBase,
    text: Sequence[Path] | None = None,
    *,
    row: int = 256,
    tokens: int = 16_384,
) -> Rows:
    """Pack text that pre-training does not see.

    It is generated from another seed, or consists of the last documents of the files.

    Args:
        tokenizer: Tokenizer of the model.
        text: Text files; None for the generated corpus.
        row: Tokens in a row.
        tokens: Tokens in all rows.

    """
    if text is None:
        source: Iterable[str] = corpus.pretraining_documents(_HELD_OUT_SEED)
    else:
        found = list(documents(text, 0, repeat=False))
        source = found[-max(1, len(found) // 20) :]
    return pack_documents(source, tokenizer, row=row, tokens=tokens)
