"""One real vLLM server for all tests of serving."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Plaudit, served


@pytest.fixture(scope="session")
def plaudit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    home: Path = tmp_path_factory.mktemp("home")
    environment = {
        "PLAUDIT_FAILPOINTS": str(home / "failpoints"),
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
    }
    with served(home, environment, keys=True) as server:
        yield server
