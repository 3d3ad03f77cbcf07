from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from feedback.log.sqlite_log import SqliteLog
from feedback.view.feedback_view import View
from tests.support.feedback_api import client_of


@pytest.fixture
def new_view(tmp_path: Path) -> Iterator[Callable[[], View]]:
    views: list[View] = []

    def make() -> View:
        views.append(View(tmp_path / f"view{len(views)}.db"))
        return views[-1]

    yield make
    for view in views:
        view.close()


@pytest.fixture
async def client(log: SqliteLog, new_view: Callable[[], View]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(log, new_view()) as opened:
        yield opened
