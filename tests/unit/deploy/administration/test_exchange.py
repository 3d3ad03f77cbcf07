"""Export and import of votes as JSONL."""

import json
from pathlib import Path

import pytest

from deploy.administration.exchange import export_feedback, import_feedback
from deploy.errors import DeployError
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from tests.support.models import tiny_chat_model

CHAT = [{"role": "user", "content": "Hi"}]


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIR = {"prompt": CHAT, "chosen": message("Hello!"), "rejected": message("What?")}
LABELLED = {"prompt": CHAT, "completion": message("Good day."), "label": False}
PLAIN = {"prompt": "Once upon", "chosen": " a time", "rejected": " a mime"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)


def import_rows(home: Path, model: Path, *rows: object) -> int:
    file = home / "in.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    try:
        count = import_feedback(file, log, model)
        while ledger.follow(log):
            pass
    finally:
        log.close()
        ledger.close()
    return count


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
    with pytest.raises(DeployError, match="line 2: neither a pair"):
        import_rows(tmp_path, model, PAIR, bad)
    log = SqliteLog(tmp_path / "log.db")
    assert log.ends("feedback") == {0: 0}
    log.close()


def test_an_export_without_a_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="has no ledger"):
        export_feedback(tmp_path, tmp_path / "out.jsonl")
