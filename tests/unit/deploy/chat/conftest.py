"""A server in a thread that answers as Plaudit does."""

from collections.abc import Iterator

import pytest

from tests.support.browser.stand_in import StandIn


@pytest.fixture(scope="session")
def running() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def server(running: StandIn) -> StandIn:
    running.reset()
    running.answers = ["Boil water.", "Ask a friend.", "Buy some.", "No."]
    running.snapshot |= {"live": 1}
    return running
