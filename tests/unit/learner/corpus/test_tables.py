"""The corpus's tables: read once, and an error names the file and the line."""

import json
from importlib import resources
from pathlib import Path

import pytest

from learner.corpus import entities as entities_module
from learner.corpus.entities import Fact, entities
from learner.corpus.kinds.howtos import HowTo, howtos
from learner.corpus.tables import load_table, read_rows, words
from learner.errors import DataUnusable

ROW = {"goal": "make tea", "summary": "pour", "steps": ["boil", "pour"], "tip": "wait"}


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_table_is_read_in_order_and_once(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", json.dumps(ROW), json.dumps(ROW | {"goal": "rest"}))
    assert [row.goal for row in read_rows(file, HowTo)] == ["make tea", "rest"]
    assert howtos() is howtos()
    assert words("pets")[0] == "a kitten"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "JSON"),
        ("", "JSON"),
        ("[]", "not a row"),
        (json.dumps(ROW | {"extra": 1}), "extra"),
        (json.dumps({k: v for k, v in ROW.items() if k != "tip"}), "tip"),
        (json.dumps(ROW | {"steps": "boil"}), "steps"),
        (json.dumps(ROW | {"steps": ["boil", 1]}), r"steps\.1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    file = write(tmp_path / "t.jsonl", json.dumps(ROW), line)
    with pytest.raises(DataUnusable, match=rf"t\.jsonl, line 2: .*{problem}"):
        read_rows(file, HowTo)


def test_a_missing_table_is_named() -> None:
    with pytest.raises(DataUnusable, match=r"nothing\.jsonl"):
        load_table("nothing.jsonl", HowTo)


def test_facts_that_do_not_match_their_category_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, row_type: type[Fact]) -> tuple[Fact, ...]:
        first, second, *rest = load_table(name, row_type)
        return (first, Fact(one=second.one, many=second.many, values={"what": "a pet"}), *rest)

    monkeypatch.setattr(entities_module, "load_table", load)
    with pytest.raises(DataUnusable, match=r"facts/animal\.jsonl, line 2: .* what, eat"):
        entities.__wrapped__()


def test_every_table_is_data_of_the_package() -> None:
    folder = resources.files("learner.corpus") / "data"
    names = {file.name for file in folder.iterdir() if file.is_file()}
    assert {"attributes.jsonl", "categories.jsonl", "words.jsonl"} <= names
    assert all(name.endswith(".jsonl") for name in names)
