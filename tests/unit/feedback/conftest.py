"""An event log, a ledger and a view in the test's own folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from feedback.view.feedback_view import View


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    opened = View(tmp_path / "view.db")
    yield opened
    opened.close()
