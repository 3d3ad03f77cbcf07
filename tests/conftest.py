"""What several kinds of tests share."""

import os
from collections.abc import Iterator

import pytest

from deploy.broker import Broker, missing_tools
from tests.servers import free_port

# What takes long to start: where several processes run the tests (`pytest -n 2`), those that share
# one of these run in one process. Other files' tests stay together, for their fixtures.
_SHARED = ("broker", "browser", "kafka", "plaudit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests run in one process."""
    for item in items:
        fixtures = getattr(item, "fixturenames", [])
        group = next((name for name in _SHARED if name in fixtures), item.path.stem)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka on this machine. Where it cannot be had: a skip, in CI a failure."""
    if (lacking := missing_tools()) and not os.environ.get("CI"):
        pytest.skip(f"a local Kafka needs {' and '.join(lacking)}")
    broker = Broker(tmp_path_factory.mktemp("kafka"), free_port(), free_port())
    broker.start(print)
    yield broker
    broker.stop()
