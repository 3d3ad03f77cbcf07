"""Documents of text files and of JSON Lines."""

from itertools import islice
from pathlib import Path

import pytest

from learner.data.tokenizer import train_tokenizer
from learner.errors import DataUnusable
from learner.pretraining.documents import documents, held_out_text


def read(*files: Path) -> list[str]:
    return list(documents(files, 0, repeat=False))


def test_json_lines_may_hold_any_separator_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text":"a\u2028b\x85c"}\n\n{"text":" "}\n{"text":" d "}\n\n', newline="")
    assert read(file) == ["a\u2028b\x85c", " d "]
    first, _, third = islice(documents([file], 0, repeat=True), 3)
    assert first == third


@pytest.mark.parametrize("value", ["null", '["a","b"]', "3", '"a\\ud83d b"'])
def test_json_lines_that_are_not_text_are_refused(tmp_path: Path, value: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"text": "x"}}\n{{"text": {value}}}\n')
    with pytest.raises(DataUnusable, match=r"a\.jsonl, line 2: "):
        next(documents([file], 0, repeat=True))


def test_a_json_array_of_texts_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[{"text": "a", "source": 1}, {"text": " "},\n{"text": "b"}]')
    assert read(file) == ["a", "b"]
    file.write_text('[{"text": "a"}, {"words": "b"}]')
    with pytest.raises(DataUnusable, match=r"a\.json, row 2: text: is missing"):
        read(file)


def test_text_is_split_at_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n\n one\r\ntwo \r\n\r\n\r\n\n \n\nthree\u2028four", newline="")
    assert read(file) == ["one\ntwo", "three\u2028four"]


def test_all_files_are_checked_before_the_first_document(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("good")
    bad.write_bytes(b"x\n\n" * 10_000 + b"\xff")
    with pytest.raises(DataUnusable, match=r"bad\.txt cannot be read as UTF-8"):
        next(documents([good, bad], 0, repeat=True))
    with pytest.raises(DataUnusable, match="not a regular file"):
        next(documents([Path("/dev/null")], 0, repeat=True))


def test_held_out_text_is_the_last_twentieth(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n\n".join(f"document {n}" for n in range(40)))
    tokenizer = train_tokenizer(["document"], vocabulary=300, context=64)
    rows = held_out_text(tokenizer, [file], row=2)
    text = tokenizer.decode(rows.input_ids_NT.flatten())
    assert text.startswith("document 38<|endoftext|>document 3")
