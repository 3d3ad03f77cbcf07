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
        "PLAUDIT_SERVING_API_KEYS": '["key-a", "key-b"]',
    }
    with served(home, environment, key="key-a") as server:
        yield server
