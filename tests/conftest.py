"""What several kinds of tests share."""

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from deploy.broker import Broker, missing_tools
from tests.servers import free_port

# What takes long to start. Where several processes run the tests (`pytest -n 2`), those that share
# one of these run in one of them; other files' tests stay together, for their own fixtures.
_SHARED = ("broker", "kafka", "plaudit")
_ROOT = Path(__file__).parent.parent


class _Together(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0])


@functools.cache
def _group(file: str) -> str:
    path = _ROOT / file
    if path.parent.name == "browser":
        return path.parent.name
    source = path.read_text()
    for name in _SHARED:
        if re.search(rf'def test_\w+\([^)]*\b{name}\b|getfixturevalue\("{name}"', source):
            return name
    return file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Say which tests run in one process."""
    return _Together(config, log)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka on this machine. Where it cannot be had: a skip, in CI a failure."""
    if (lacking := missing_tools()) and not os.environ.get("CI"):
        pytest.skip(f"a local Kafka needs {' and '.join(lacking)}")
    broker = Broker(tmp_path_factory.mktemp("kafka"), free_port(), free_port())
    broker.start(print)
    yield broker
    broker.stop()
