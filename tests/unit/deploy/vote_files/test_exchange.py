"""Export and import of votes as JSONL."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import DeployError
from deploy.vote_files.exchange import export_feedback, import_feedback
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from learner.data.tokenizer import CHAT_TEMPLATE
from learner.models.loading import load_tokenizer
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from tests.support.feedback_samples import comparison, completion, put, rating
from tests.support.models import tiny_chat_model

CHAT = [{"role": "user", "content": "Hi"}]


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIR = {"prompt": CHAT, "chosen": message("Hello!"), "rejected": message("What?")}
LABELLED = {"prompt": CHAT, "completion": message("Good day."), "label": False}
PLAIN = {"prompt": "Once upon", "chosen": " a time", "rejected": " a mime"}
SEPARATORS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1d\x1eh\r\ni\nj\x00\ufeff\U0001f600"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)


@pytest.fixture(scope="module")
def strict_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a model whose template knows the roles system, user and assistant alone."""
    folder = tiny_chat_model(tmp_path_factory.mktemp("model") / "strict", seed=0)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def import_rows(home: Path, model: Path, *rows: object) -> int:
    file = home / "in.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return import_file(home, model, file)


def import_file(home: Path, model: Path, file: Path) -> int:
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    try:
        count = import_feedback(file, log, model).taken.total()
        while ledger.follow(log):
            pass
    finally:
        log.close()
        ledger.close()
    return count


def exported(home: Path) -> list[Any]:
    export_feedback(home, home / "out.jsonl")
    lines = (home / "out.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return [json.loads(line) for line in lines]


def test_imported_rows_are_exported_unchanged(tmp_path: Path, model: Path) -> None:
    rows = [PAIR, LABELLED, PLAIN]
    assert import_rows(tmp_path, model, *rows) == 3
    counts = export_feedback(tmp_path, tmp_path / "out.jsonl")
    assert (counts.pairs, counts.singles, counts.skipped) == (2, 1, 0)
    assert [json.loads(x) for x in (tmp_path / "out.jsonl").read_text().splitlines()] == rows


def test_the_same_row_counts_once(tmp_path: Path, model: Path) -> None:
    import_rows(tmp_path, model, PAIR, LABELLED)
    import_rows(tmp_path, model, PAIR, LABELLED, PAIR)
    ledger = Ledger(tmp_path / "ledger.db")
    assert len(ledger.effective_events()) == 2
    assert ledger.dead_letters() == []
    ledger.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": CHAT},
        {"prompt": CHAT, "chosen": [], "rejected": message("x")},
        {"prompt": CHAT, "completion": message("x"), "label": "maybe"},
        [1],
    ],
)
def test_an_invalid_line_is_named_and_nothing_is_imported(
    tmp_path: Path, model: Path, bad: object
) -> None:
    with pytest.raises(DeployError, match=r"in\.jsonl, line 2: .*expected a pair"):
        import_rows(tmp_path, model, PAIR, bad)
    assert_log_is_empty(tmp_path)


def assert_log_is_empty(home: Path) -> None:
    log = SqliteLog(home / "log.db")
    assert (log.ends("completions"), log.ends("feedback")) == ({0: 0}, {0: 0})
    log.close()


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (LABELLED | {"label": None}, "label: must be true or false, but is null"),
        (LABELLED | {"label": 1}, "label: must be true or false, but is a number"),
        (PAIR | {"chosen": None}, "chosen: must be text or a list of messages"),
        (PAIR | {"chosen": CHAT}, "an answer has the role 'user'; it must be 'assistant'"),
        (PAIR | {"chosen": message(" ")}, "an answer is empty"),
        (PAIR | {"chosen": message("What? ")}, "'chosen' and 'rejected' are the same text"),
        (PAIR | {"chosen": [*message("Yes?"), *message("No.")]}, "are not the prompt"),
        (PLAIN | {"chosen": [*CHAT, *message("No.")]}, "are not the prompt"),
        (PLAIN | {"prompt": ""}, "prompt: must not be empty"),
        (PAIR | {"prompt": [{"role": "user", "content": "\ud83d"}]}, "surrogate pair"),
        (
            {
                "prompt": "Hi",
                "chosen": [*CHAT, *message("Hello!")],
                "rejected": [{"role": "system", "content": "Be rude."}, *CHAT, *message("What?")],
            },
            "the answers belong to different prompts",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(
    tmp_path: Path, model: Path, bad: object, problem: str
) -> None:
    with pytest.raises(DeployError, match=rf"in\.jsonl, line 1: .*{problem}"):
        import_rows(tmp_path, model, bad, PAIR)
    assert_log_is_empty(tmp_path)


def test_nothing_is_imported_if_the_template_refuses_a_late_row(
    tmp_path: Path, strict_model: Path
) -> None:
    rows = [PAIR | {"prompt": [{"role": "user", "content": f"Hi {n}"}]} for n in range(210)]
    tool = PAIR | {"prompt": [*CHAT, {"role": "tool", "content": "42"}]}
    with pytest.raises(DeployError, match=r"line 211: the model's chat template refuses"):
        import_rows(tmp_path, strict_model, *rows, tool)
    assert_log_is_empty(tmp_path)


def test_all_rows_of_several_batches_are_imported(tmp_path: Path, model: Path) -> None:
    rows = [PAIR | {"prompt": [{"role": "user", "content": f"Hi {n}"}]} for n in range(401)]
    assert import_rows(tmp_path, model, *rows) == 401
    assert exported(tmp_path) == rows


@pytest.mark.parametrize("prompt", ["Hi", CHAT])
@pytest.mark.parametrize("repeated", [CHAT, []])
def test_answers_may_repeat_the_prompt(
    tmp_path: Path, model: Path, prompt: object, repeated: list[dict[str, str]]
) -> None:
    row = {
        "prompt": prompt,
        "chosen": [*repeated, *message("Hello!")],
        "rejected": [*repeated, *message("What?")],
    }
    assert import_rows(tmp_path, model, row) == 1
    assert exported(tmp_path) == [PAIR]


def test_ids_of_rows_are_those_of_earlier_releases(tmp_path: Path, model: Path) -> None:
    import_rows(tmp_path, model, PAIR, LABELLED, PLAIN)
    log = SqliteLog(tmp_path / "log.db")
    assert [record.key for record in log.read("completions", {})] == [
        "import-92859f818f36d5eaaaeeac4a8f3ab9df092c2336",
        "import-163fb13dc8e100e3a1798f9a48655993eecfbfa3",
        "import-ae15b7795e7faabb0d5ba11f32de319b4c36ffe5",
    ]
    log.close()


def record_votes(home: Path, *messages: CompletionRecord | FeedbackEvent) -> None:
    """Write completions and votes to the log and the ledger of a home folder."""
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    put(log, *messages)
    while ledger.follow(log):
        pass
    log.close()
    ledger.close()


def test_an_export_with_separators_in_its_texts_can_be_imported(
    tmp_path: Path, model: Path
) -> None:
    chat = completion(question=SEPARATORS)
    chat.choices[0].text = f" {SEPARATORS} "
    plain = completion("c2")
    plain.ClearField("messages")
    plain.prompt = SEPARATORS
    homes = [tmp_path / str(number) for number in range(3)]
    for home in homes:
        home.mkdir()
    record_votes(homes[0], chat, plain, comparison("e1"), rating("e2", completion_id="c2"))
    for home, following in pairwise(homes):
        assert export_feedback(home, home / "out.jsonl").skipped == 0
        assert import_file(following, model, home / "out.jsonl") == 2
    export_feedback(homes[2], homes[2] / "out.jsonl")
    first, second, third = ((home / "out.jsonl").read_bytes() for home in homes)
    assert first == second == third
    assert f" {SEPARATORS} " in json.loads(first.split(b"\n")[0])["chosen"][0]["content"]


def test_rows_that_an_import_would_refuse_are_not_exported(tmp_path: Path) -> None:
    same, empty, unknown = completion("c1"), completion("c2"), completion("c3")
    same.choices[1].text = same.choices[0].text
    empty.choices[0].text = ""
    unknown.ClearField("messages")
    ratings = [rating(f"r-{c}", completion_id=c) for c in ("c1", "c2", "c3")]
    record_votes(tmp_path, same, empty, unknown, comparison("e1"), *ratings)
    counts = export_feedback(tmp_path, tmp_path / "out.jsonl")
    assert (counts.pairs, counts.singles, counts.skipped) == (0, 1, 3)


def test_an_export_without_a_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="has no ledger"):
        export_feedback(tmp_path, tmp_path / "out.jsonl")
