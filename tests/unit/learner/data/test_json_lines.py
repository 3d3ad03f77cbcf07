"""The reader of JSON Lines: what a line is, strict types, and errors that name the line."""

import contextlib
import json
import logging
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from learner.data.json_lines import ChatMessage, JsonLines, StrictRow
from learner.errors import DataUnusable

SEPARATORS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1eh\ri\nj"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SAME_FOLDER = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


class Row(StrictRow):
    text: str


def lines(file: Path) -> JsonLines[Row]:
    return JsonLines(file, TypeAdapter(Row), '{"text": "..."}')


def read(folder: Path, content: bytes) -> list[str]:
    file = folder / "in.jsonl"
    file.write_bytes(content)
    rows = lines(file)
    rows.check()
    return [row.text for row in rows]


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(DataUnusable) as caught:
        read(folder, content)
    return str(caught.value)


@given(texts=st.lists(TEXT, min_size=1), escaped=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
@SAME_FOLDER
def test_any_text_comes_back(tmp_path: Path, texts: list[str], escaped: bool, end: str) -> None:
    rows = [json.dumps({"text": text}, ensure_ascii=escaped) for text in texts]
    assert read(tmp_path, end.join(rows).encode()) == texts


@given(content=st.binary() | st.binary().map(lambda noise: b'{"text": "' + noise + b'"}\n'))
@SAME_FOLDER
def test_arbitrary_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    with contextlib.suppress(DataUnusable):
        assert read(tmp_path, content)


def test_separators_other_than_the_line_feed_are_text(tmp_path: Path) -> None:
    row = json.dumps({"text": SEPARATORS}, ensure_ascii=False).encode()
    assert read(tmp_path, row + b"\n" + row) == [SEPARATORS, SEPARATORS]


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf{"text": "a"}\r\n\r\n \t\n{"text": "b"}\n\n') == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": null}', "line 3: text: must be text, but is null"),
        (b'{"text": ["a", "b"]}', "line 3: text: must be text, but is a list"),
        (b'{"text": 3}', "line 3: text: must be text, but is a number"),
        (b'{"text": true}', "line 3: text: must be text, but is a boolean"),
        (b"[1]", "line 3: must be an object, but is a list"),
        (b"{}", 'line 3: text: is missing; expected {"text": "..."}'),
        (b'{"text": "a"', "line 3: not JSON: EOF while parsing an object at column 12"),
        (b'{"text": "a"} {}', "line 3: not JSON: trailing characters"),
        (b'{"text": "a\\ud83d b"}', "half of a surrogate pair cannot be encoded"),
        (b'{"text": "a\\ud83d\\ud83d b"}', "half of a surrogate pair cannot be encoded"),
        (b'{"text": "\xff"}', "line 3: byte 11 is not UTF-8; save the file in UTF-8"),
        (b'{"text": "\xed\xa0\xbd"}', "line 3: byte 11 is not UTF-8"),
        (b"[" * 100_000, "line 3: not JSON: recursion limit exceeded"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    assert problem in refusal(tmp_path, b'{"text": "a"}\n\n' + line + b"\n")


def test_the_first_ten_problems_are_listed_and_all_counted(tmp_path: Path) -> None:
    message = refusal(tmp_path, b'{"text": "a"}\n' + b"{}\n" * 12)
    assert "12 lines cannot be used, the first 10 are:" in message
    assert [f"line {n}:" in message for n in (1, 2, 11, 12)] == [False, True, True, False]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "in.jsonl has no rows; write one row a line" in refusal(tmp_path, content)


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(DataUnusable, match=f"{path} cannot be read"):
            lines(path)


def test_columns_that_are_not_used_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            content = b'{"text": "a", "source": 1}\n{"text": "b", "id": null, "source": 2}'
            assert read(tmp_path, content) == ["a", "b"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'in.jsonl'}: these columns are not used: 'id', 'source'"
    ]


def test_a_row_that_its_use_refuses_is_a_problem_of_its_line(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}\n')

    def use(row: Row) -> None:
        if row.text == "b":
            raise DataUnusable("b is not wanted")

    with pytest.raises(DataUnusable, match=r"in\.jsonl, line 2: b is not wanted$"):
        lines(file).check(use)


def test_a_line_that_became_invalid_after_the_check_is_named(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "a"}\n')
    rows = lines(file)
    rows.check()
    file.write_text('{"text": "a"}\n{}\n')
    with pytest.raises(DataUnusable, match=r"in\.jsonl, line 2: text: is missing"):
        list(rows)


def test_a_pipe_can_be_read_more_than_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[b'{"text": "a"}\n'])
    writer.start()
    rows = lines(pipe)
    writer.join()
    rows.check()
    assert [[row.text for row in rows] for _ in range(2)] == [["a"], ["a"]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"type": "text", "text": "hi"}]', None),
        ('[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]', "one text"),
        ('[{"type": "image_url", "image_url": {"url": "x"}}]', "one text"),
        ('[{"type": "text", "text": null}]', "one text"),
        ("[]", "one text"),
        ("null", "content: must be text, but is null"),
        ('"hi", "tool_calls": []', None),
        ('"hi", "tool_calls": [{"id": "c"}]', "a tool call needs a 'function' with a 'name'"),
    ],
)
def test_contents_of_messages(tmp_path: Path, content: str, problem: str | None) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(f'{{"role": "user", "content": {content}}}')
    rows = JsonLines(file, TypeAdapter(ChatMessage), "a message")
    if problem is None:
        rows.check()
        assert list(rows) == [ChatMessage(role="user", content="hi")]
    else:
        with pytest.raises(DataUnusable, match=problem):
            rows.check()
