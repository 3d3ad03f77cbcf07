"""Open users' data in any common form as rows: JSONL, JSON, Parquet, `datasets` folders, hub ids.

Rows are read as a stream, whatever their number. All but JSONL and JSON is read by the `datasets`
library, which is an optional dependency.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter

from learner.data.json_lines import JsonLines
from learner.errors import DataUnusable

RowT = TypeVar("RowT")

_CHUNK: Final = 1 << 16  # characters
_DATA_FILES: Final = (".parquet", ".arrow", ".csv")
_READERS: Final = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}
_SPACE: Final = " \t\r\n"


def open_rows(
    source: Path,
    rows: TypeAdapter[RowT],
    form: str,
    convert: Callable[[Any], list[Any]] | None = None,
    *,
    split: str | None = None,
) -> JsonLines[RowT]:
    """Open data as rows; call `check` on the result before the first use.

    Args:
        source: A JSONL file, a JSON file with an array, a Parquet, Arrow or CSV file, a folder that
            `datasets` has saved or that holds such files, or a dataset's id on the hub.
        rows: Type of the rows.
        form: Example of a row, for error messages.
        convert: See `JsonLines`.
        split: Split of a dataset; None for `train`, or the only one.

    Raises:
        DataUnusable: The data cannot be read, or the `datasets` library is missing.

    """
    if source.suffix == ".json" and source.is_file():
        return _OtherRows(source, rows, form, convert, partial(_json_array, source))
    if source.suffix in _DATA_FILES or source.is_dir() or _is_hub_id(source):
        return _OtherRows(source, rows, form, convert, partial(_dataset_rows, source, split))
    return JsonLines(source, rows, form, convert)


def is_dataset(source: Path) -> bool:
    """Return whether `open_rows` would read a source as something else than JSONL or text."""
    suffixes = (*_DATA_FILES, ".json")
    return source.suffix in suffixes or source.is_dir() or _is_hub_id(source)


class _OtherRows(JsonLines[RowT]):
    """Rows that come from a function instead of lines."""

    unit = "row"

    def __init__(
        self,
        file: Path,
        rows: TypeAdapter[RowT],
        form: str,
        convert: Callable[[Any], list[Any]] | None,
        read: Callable[[], Iterator[Any]],
    ) -> None:
        self._read = read
        super().__init__(file, rows, form, convert)

    def _open(self) -> None:
        """Open nothing yet: `read` does."""

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        for number, row in enumerate(self._read(), 1):
            yield number, json.dumps(row, ensure_ascii=False, default=str).encode()
        if number == 0:
            raise DataUnusable(f"{self.file} has no rows; each row is {self._form}")


def _is_hub_id(source: Path) -> bool:
    """Return whether a path that does not exist has the form of a dataset's id."""
    return not source.exists() and not source.suffix and len(source.parts) == 2


def _json_array(file: Path) -> Iterator[Any]:
    """Yield the elements of a JSON file's array, one after the other.

    Raises:
        DataUnusable: The file cannot be read, or holds something else.

    """
    decoder = json.JSONDecoder()
    try:
        with file.open(encoding="utf-8-sig") as stream:
            text = stream.read(_CHUNK).lstrip(_SPACE)
            if not text.startswith("["):
                raise DataUnusable(
                    f"{file} holds no JSON array; write [ROW, ROW, ...], or one row a line into a "
                    "file whose name ends in '.jsonl'"
                )
            text = text[1:]
            while True:
                text = text.lstrip(_SPACE + ",")
                more = "" if text.startswith("]") else stream.read(_CHUNK)
                text += more
                try:
                    row, end = decoder.raw_decode(text)
                except json.JSONDecodeError as error:
                    if more:
                        continue
                    if text.lstrip(_SPACE).startswith("]"):
                        return
                    raise DataUnusable(f"{file} is not valid JSON: {error}") from error
                if end == len(text) and more:
                    continue  # a number may go on in the next chunk
                yield row
                text = text[end:]
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnusable(f"{file} cannot be read as UTF-8: {error}") from error


def _dataset_rows(source: Path, split: str | None) -> Iterator[Any]:
    """Yield the rows of whatever the `datasets` library can open.

    Raises:
        DataUnusable: The library is missing, or it cannot open the source.

    """
    try:
        import datasets
    except ImportError as error:
        raise DataUnusable(
            f"{source} is no file of JSON lines or a JSON array, and the 'datasets' library, which "
            "reads Parquet, its own folders and the hub, is not installed; install it with "
            "'uv sync --group data', or convert the data to JSONL"
        ) from error
    try:
        if (source / "state.json").is_file() or (source / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(source))
        elif source.is_file():
            reader = _READERS[source.suffix]
            loaded = datasets.load_dataset(reader, data_files=str(source), streaming=True)
        else:
            loaded = datasets.load_dataset(str(source), streaming=True)
        yield from _choose_split(source, loaded, split)
    except DataUnusable:
        raise
    except Exception as error:
        raise DataUnusable(f"{source} cannot be read by 'datasets': {error}") from error


def _choose_split(source: Path, loaded: Any, split: str | None) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    name = split or ("train" if "train" in loaded else None)
    if name is None and len(loaded) == 1:
        name = next(iter(loaded))
    if name not in loaded:
        raise DataUnusable(
            f"{source} has the splits {', '.join(sorted(loaded))}; choose one with --split"
        )
    return loaded[name]
