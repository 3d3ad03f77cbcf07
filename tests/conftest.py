"""What several kinds of tests share."""

import os
from collections.abc import Iterator

import pytest

from deploy.local.broker import Broker, missing_tools
from tests.support.servers import free_port


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka on this machine. Where it cannot be had: a skip, in CI a failure."""
    if (lacking := missing_tools()) and not os.environ.get("CI"):
        pytest.skip(f"a local Kafka needs {' and '.join(lacking)}")
    broker = Broker(tmp_path_factory.mktemp("kafka"), free_port(), free_port())
    broker.start(print)
    yield broker
    broker.stop()
