"""Votes as JSONL: out of a ledger, into an empty one, and the same again."""

import json
from pathlib import Path

import pytest

from deploy.administration.exchange import export_feedback, import_feedback
from deploy.errors import DeployError
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from tests.support.models import tiny_chat_model

CHAT = [{"role": "user", "content": "Hi"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIR = {"prompt": CHAT, "chosen": said("Hello!"), "rejected": said("What?")}
LABELLED = {"prompt": CHAT, "completion": said("Good day."), "label": False}
PLAIN = {"prompt": "Once upon", "chosen": " a time", "rejected": " a mime"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)


def bring_in(home: Path, model: Path, *rows: object) -> int:
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


def test_what_comes_in_goes_out_the_same(tmp_path: Path, model: Path) -> None:
    rows = [PAIR, LABELLED, PLAIN]
    assert bring_in(tmp_path, model, *rows) == 3
    done = export_feedback(tmp_path, tmp_path / "out.jsonl")
    assert (done.pairs, done.singles, done.skipped) == (2, 1, 0)
    assert [json.loads(x) for x in (tmp_path / "out.jsonl").read_text().splitlines()] == rows


def test_the_same_row_counts_once(tmp_path: Path, model: Path) -> None:
    bring_in(tmp_path, model, PAIR, LABELLED)
    bring_in(tmp_path, model, PAIR, LABELLED, PAIR)
    ledger = Ledger(tmp_path / "ledger.db")
    assert len(ledger.effective_events()) == 2
    assert ledger.dead_letters() == []
    ledger.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": CHAT},
        {"prompt": CHAT, "chosen": [], "rejected": said("x")},
        {"prompt": CHAT, "completion": said("x"), "label": "maybe"},
        [1],
    ],
)
def test_a_bad_line_is_named_and_nothing_comes_in(tmp_path: Path, model: Path, bad: object) -> None:
    with pytest.raises(DeployError, match="line 2: neither a pair"):
        bring_in(tmp_path, model, PAIR, bad)
    log = SqliteLog(tmp_path / "log.db")
    assert log.ends("feedback") == {0: 0}
    log.close()


def test_no_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="has no ledger"):
        export_feedback(tmp_path, tmp_path / "out.jsonl")
