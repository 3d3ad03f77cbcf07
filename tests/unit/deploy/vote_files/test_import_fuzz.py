"""Any file is imported whole, or refused with a sentence; what is imported can be used."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import DeployError
from deploy.vote_files.exchange import import_feedback
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from learner.errors import LearnerError
from tests.support.fuzzing import MESSAGE, MESSAGES, TEXTS, VALUES, budget, jsonl, objects
from tests.support.models import tiny_chat_model

_TEXT = TEXTS | MESSAGES
_NODE = objects(text=TEXTS, role=st.sampled_from(["prompter", "assistant"]), rank=st.integers(0, 2))
ROWS = st.one_of(
    objects(prompt=_TEXT, chosen=_TEXT, rejected=_TEXT),
    objects(chosen=_TEXT, rejected=_TEXT),
    objects(prompt=_TEXT, completion=_TEXT, label=st.booleans()),
    objects(
        prompt=_TEXT,
        completions=st.lists(TEXTS | MESSAGE, max_size=3),
        ranks=st.lists(st.integers(0, 3), max_size=3),
    ),
    objects(
        instruction=TEXTS,
        completions=st.lists(objects(response=TEXTS, overall_score=st.floats()), max_size=3),
    ),
    objects(prompt=objects(text=TEXTS, role=TEXTS, replies=st.lists(_NODE, max_size=3))),
    VALUES,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)


@budget(60)
@given(content=jsonl(ROWS), skip=st.booleans())
def test_any_file_is_imported_or_refused(
    tmp_path_factory: pytest.TempPathFactory, model: Path, content: bytes, skip: bool
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "in.jsonl").write_bytes(content)
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    with contextlib.closing(log), contextlib.closing(ledger):
        taken = 0
        with contextlib.suppress(DeployError, LearnerError):
            taken = import_feedback(home / "in.jsonl", log, model, skip_unusable=skip).taken.total()
        assert bool(log.read("feedback", {})) == bool(taken), "all of the rows, or none"
        while ledger.follow(log):
            pass
        assert ledger.dead_letters() == []
