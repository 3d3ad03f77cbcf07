"""Read files of users row by row: strictly typed rows, and errors that name file and line.

`learner.data.sources` opens other forms of data as the same rows. In a JSON Lines file a line ends
at a line feed; other separators, such as U+2028, are text. Blank lines and a UTF-8 byte order mark
are skipped. A file is read as a stream and never held in memory.
"""

import logging
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, BinaryIO, Final, Generic, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import from_json

from learner.errors import DataUnusable

logger = logging.getLogger(__name__)

RowT = TypeVar("RowT")
_LISTED: Final = 10  # problems or unused columns that are named in one message
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_EXPECTED: Final = {
    "string_type": "text",
    "list_type": "a list",
    "bool_type": "true or false",
    "model_type": "an object",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}
_JSON_KINDS: Final = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


class StrictRow(BaseModel):
    """An object in a file; values of another type are refused, unknown columns are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _collect_unknown(cls, data: Any, info: ValidationInfo) -> Any:
        """Add the names of unknown columns to the validation context, which is a set."""
        if isinstance(data, dict) and info.context is not None:
            info.context.update(data.keys() - cls.model_fields.keys())
        return data


def _text_of_part(content: Any) -> Any:
    """Return the text of OpenAI's content parts, of which there may be one."""
    if not isinstance(content, list):
        return content
    match content:
        case [{"type": "text", "text": str(text)}]:
            return text
    raise ValueError(
        "several content parts, or parts other than text, cannot be used; write the content as "
        "one text"
    )


class ChatMessage(StrictRow):
    """A message of a conversation; its content may be given as one part of type text.

    A message with tool calls may have no content.
    """

    role: Annotated[str, Field(min_length=1)]
    content: Annotated[str | None, BeforeValidator(_text_of_part)]
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _add_content(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "tool_calls" not in data:
            return data
        return {"content": None, **data, "tool_calls": data["tool_calls"] or None}

    @model_validator(mode="after")
    def _check_calls(self) -> Self:
        for call in self.tool_calls or ():
            function = call.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise ValueError("a tool call needs a 'function' with a 'name'")
        if self.content is None and not self.tool_calls:
            raise ValueError("content: must be text, but is null")
        return self

    def whole(self) -> dict[str, Any]:
        """Return the message as a chat template takes it, without fields that are not set."""
        fields = self.model_dump(exclude_none=True)
        return {"role": fields.pop("role"), "content": self.content, **fields}


class RowLeftOut(Exception):
    """A row that is well-formed, but holds nothing to learn from; the message says why."""


class JsonLines(Generic[RowT]):
    """The rows of a file; call `check` before the first use.

    Iterating reads the file anew. A pipe is copied to a temporary file first.

    Attributes:
        left_out: Why rows were left out in the last `check`, and the numbers of up to ten of them
            for each reason, with the count of all.

    """

    unit = "line"

    def __init__(
        self,
        file: Path,
        rows: TypeAdapter[RowT],
        form: str,
        convert: Callable[[Any], list[Any]] | None = None,
    ) -> None:
        """Open the file.

        Args:
            file: File to read.
            rows: Type of the rows, of `StrictRow`s.
            form: Example of a row, for error messages.
            convert: Function from a row of the file to rows of the type; it may raise DataUnusable
                and RowLeftOut. None: they are the same.

        Raises:
            DataUnusable: The file cannot be read.

        """
        self.file = file
        self.left_out: dict[str, LeftOutRows] = {}
        self._rows = rows
        self._form = form
        self._convert = convert
        self._path = file
        self._open()

    def _open(self) -> None:
        file = self._path
        try:
            with file.open("rb") as stream:
                if not stream.seekable():
                    self._path = self._copy(stream)
        except OSError as error:
            raise DataUnusable(f"{file} cannot be read: {error}") from error

    def _copy(self, pipe: BinaryIO) -> Path:
        """Copy a pipe to a temporary file, which is deleted with this object."""
        with NamedTemporaryFile(delete=False) as copy:
            weakref.finalize(self, os.unlink, copy.name)
            shutil.copyfileobj(pipe, copy)
            return Path(copy.name)

    def check(
        self, use: Callable[[RowT], object] | None = None, *, skip_unusable: bool = False
    ) -> None:
        """Read the whole file, and warn of columns that are not used.

        Args:
            use: Function that raises DataUnusable if a row that is well-formed cannot be used.
            skip_unusable: Leave out rows that cannot be used instead of refusing the file.

        Raises:
            DataUnusable: The file has no rows, or some cannot be used; the first ten are listed.

        """
        unknown: set[str] = set()
        problems: list[str] = []
        count = 0
        self.left_out = {}
        for number, line in self._lines():
            try:
                for row in self._parse(line, unknown):
                    if use is not None:
                        use(row)
            except RowLeftOut as reason:
                self._leave_out(number, str(reason))
            except DataUnusable as error:
                if skip_unusable:
                    self._leave_out(number, str(error))
                    continue
                count += 1
                if count <= _LISTED:
                    problems.append(f"{self.unit} {number}: {error}")
        if problems:
            raise DataUnusable(_list_problems(self.file, problems, count, self.unit))
        if unknown:
            _warn_of_columns(self.file, frozenset(unknown))

    def _leave_out(self, number: int, reason: str) -> None:
        found = self.left_out.setdefault(reason, LeftOutRows())
        found.count += 1
        if len(found.first) < _LISTED:
            found.first.append(number)

    def __iter__(self) -> Iterator[RowT]:
        """Yield the rows.

        Raises:
            DataUnusable: The file was changed after `check`, and a row cannot be used.

        """
        return self.usable()

    def usable(
        self, use: Callable[[RowT], object] | None = None, *, skip_unusable: bool = False
    ) -> Iterator[RowT]:
        """Yield the rows that `check` with the same arguments did not leave out.

        Raises:
            DataUnusable: The file was changed after `check`, and a row cannot be used.

        """
        for number, line in self._lines():
            try:
                rows = self._parse(line, None)
                for row in rows:
                    if use is not None:
                        use(row)
            except RowLeftOut:
                continue
            except DataUnusable as error:
                if skip_unusable:
                    continue
                raise DataUnusable(f"{self.file}, {self.unit} {number}: {error}") from error
            yield from rows

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the bytes of each line that is not blank; there must be one."""
        empty = True
        try:
            with self._path.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    content = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                    if content.strip():
                        empty = False
                        yield number, content.rstrip(b"\r\n")
        except OSError as error:
            raise DataUnusable(f"{self.file} cannot be read: {error}") from error
        if empty:
            raise DataUnusable(f"{self.file} has no rows; write one row a line: {self._form}")

    def _parse(self, line: bytes, unknown: set[str] | None) -> list[RowT]:
        try:
            if self._convert is None:
                return [self._rows.validate_json(line.decode("utf-8"), context=unknown)]
            converted = self._convert(self._read_json(line))
            return [self._rows.validate_python(each, context=unknown) for each in converted]
        except UnicodeDecodeError as error:
            raise DataUnusable(
                f"byte {error.start + 1} is not UTF-8; save the file in UTF-8"
            ) from error
        except ValidationError as error:
            problems = error.errors(include_url=False)
            described = "; ".join(map(_describe, problems[:3]))
            if any(problem["type"] != "value_error" for problem in problems):
                described += f"; expected {self._form}"
            raise DataUnusable(described) from error

    def _read_json(self, line: bytes) -> Any:
        text = line.decode("utf-8")
        try:
            return from_json(text, allow_inf_nan=False)
        except ValueError:
            return self._rows.validate_json(text)  # raises an error that can be described


@dataclass
class LeftOutRows:
    """The rows that were left out for one reason.

    Attributes:
        count: Number of all of them.
        first: Numbers of the first ones.

    """

    count: int = 0
    first: list[int] = field(default_factory=list)


@cache
def _warn_of_columns(file: Path, names: frozenset[str]) -> None:
    """Log the columns that are not used, once for each file."""
    listed = ", ".join(map(repr, sorted(names)[:_LISTED]))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    logger.warning("%s: these columns are not used: %s%s", file, listed, more)


def _list_problems(file: Path, problems: list[str], count: int, unit: str) -> str:
    if count == 1:
        return f"{file}, {problems[0]}"
    first = f", the first {_LISTED} are" if count > _LISTED else ""
    return "\n  ".join([f"{file}: {count} {unit}s cannot be used{first}:", *problems])


def _describe(problem: Any) -> str:
    """Describe a problem that pydantic found, in terms of JSON."""
    if problem["type"] == "json_invalid":
        reason = re.sub(r" at line \d+ column (\d+)$", r" at column \1", problem["ctx"]["error"])
        if "hex escape" in reason:
            reason += " (half of a surrogate pair cannot be encoded; write the whole character)"
        return f"not JSON: {reason}"
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in problem["loc"]
        if isinstance(part, int) or not part.startswith("<")  # tags of unions
    ).removeprefix(".")
    return f"{place}: {_reason(problem)}" if place else _reason(problem)


def _reason(problem: Any) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] in ("too_short", "string_too_short"):
        return "must not be empty"
    if problem["type"] not in _EXPECTED:
        return str(problem["msg"])
    kind = _JSON_KINDS.get(type(problem["input"]), "another value")
    return f"must be {_EXPECTED[problem['type']]}, but is {kind}"
