"""Documents to train on: the generated corpus, or text files."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from learner import corpus
from learner.data.json_lines import JsonLines, StrictRow
from learner.data.packing import Rows, pack_documents
from learner.data.sources import is_dataset, open_rows
from learner.errors import DataUnusable

_HELD_OUT_SEED = 9_999_991  # of held-out generated text; training never uses this seed


class _Document(StrictRow):
    text: str


_DOCUMENTS: Final = TypeAdapter(_Document)


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
        text: Text files, or data with a column `text` in any form that `learner.data.sources`
            opens; None for the generated corpus.
        seed: Seed of the generated corpus.
        repeat: Repeat the files' documents without end.

    Raises:
        DataUnusable: A file cannot be read or is malformed, or there are no documents. All files
            are checked before the first document.

    """
    if text is None:
        yield from corpus.pretraining_documents(seed)
        return
    _count_documents(text)
    while True:
        yield from _read_all(text)
        if not repeat:
            return


def _count_documents(text: Sequence[Path]) -> int:
    """Check all files, and count their documents."""
    for path in text:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataUnusable(
                f"{path} is not a regular file, but is read more than once; copy it to a file"
            )
        if _has_rows(path):
            _rows(path).check()
    return sum(1 for _ in _read_all(text))


def _read_all(text: Sequence[Path]) -> Iterator[str]:
    """Yield the documents of all files; there must be one."""
    empty = True
    for path in text:
        for document in _read(path):
            empty = False
            yield document
    if empty:
        raise DataUnusable(
            f"no text in {', '.join(map(str, text))}" if text else "no text files are given"
        )


def _read(path: Path) -> Iterator[str]:
    if _has_rows(path):
        yield from (row.text for row in _rows(path) if row.text.strip())
        return
    try:
        with path.open(encoding="utf-8") as stream:
            for _, lines in groupby(stream, key=lambda line: line == "\n"):
                if document := "".join(lines).strip():
                    yield document
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnusable(f"{path} cannot be read as UTF-8 text: {error}") from error


def _has_rows(path: Path) -> bool:
    return path.suffix == ".jsonl" or is_dataset(path)


def _rows(path: Path) -> JsonLines[_Document]:
    return open_rows(path, _DOCUMENTS, '{"text": "..."}')


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
        count = _count_documents(text)
        source = islice(_read_all(text), count - max(1, count // 20), None)
    return pack_documents(source, tokenizer, row=row, tokens=tokens)
