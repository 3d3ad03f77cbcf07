"""Read the tables of the corpus: JSON Lines files in `data/`, one object per line.

The order of the lines matters: another order draws other texts from the same seed.
"""

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from learner.errors import DataUnusable

STRICT = ConfigDict(extra="forbid", strict=True)  # of the dataclasses that rows are read as

_Row = TypeVar("_Row")
_tables: dict[str, tuple[Any, ...]] = {}  # tables read so far, by name


@dataclass(frozen=True, slots=True, config=STRICT)
class WordList:
    """A named list of words in `words.jsonl`, or of prompts with slots in `wordings.jsonl`."""

    name: str
    words: tuple[str, ...]


def load_table(name: str, row_type: type[_Row]) -> tuple[_Row, ...]:
    """Return all rows of a table, read once.

    Args:
        name: Path of the file below `data/`, such as 'howtos.jsonl'.
        row_type: Pydantic dataclass of the rows.

    Raises:
        DataUnusable: The file is missing, or a line is not a row of this class.

    """
    if name not in _tables:
        _tables[name] = read_rows(resources.files("learner.corpus") / "data" / name, row_type)
    rows: tuple[_Row, ...] = _tables[name]
    return rows


def read_rows(file: Traversable, row_type: type[_Row]) -> tuple[_Row, ...]:
    """Read and validate every line of a file; see `load_table`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnusable(f"the corpus table {file} cannot be read: {error}") from error
    adapter = TypeAdapter(row_type)
    return tuple(_parse(adapter, line, f"{file}, line {n}") for n, line in enumerate(lines, 1))


def _parse(adapter: TypeAdapter[_Row], line: str, place: str) -> _Row:
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
            for problem in error.errors(include_url=False)
        )
        raise DataUnusable(f"{place}: not a row of this table: {problems}") from error


def _lists(table: str) -> dict[str, tuple[str, ...]]:
    return {row.name: row.words for row in load_table(table, WordList)}


@cache
def words(name: str) -> tuple[str, ...]:
    """Return the words of one named list, such as 'pets'.

    Raises:
        KeyError: There is no list of that name.

    """
    return _lists("words.jsonl")[name]


@cache
def wordings(name: str) -> tuple[str, ...]:
    """Return the wordings of one kind of prompt, such as 'howtos'.

    Raises:
        KeyError: There is no list of that name.

    """
    return _lists("wordings.jsonl")[name]
