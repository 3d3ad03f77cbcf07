"""A broker that fault tests may stop, and the table of faults in the summary."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.local.broker import Broker, missing_tools
from tests.support.faults.checks import TABLE, as_text
from tests.support.servers import free_port


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TABLE:
        terminalreporter.section("faults")
        for line in as_text(TABLE):
            terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Start a broker that tests may kill and pause; the fixture `kafka` must keep running."""
    if (missing := missing_tools()) and not os.environ.get("CI"):
        pytest.skip(f"a local Kafka needs {' and '.join(missing)}")
    broker = Broker(tmp_path_factory.mktemp("broker"), free_port(), free_port())
    broker.start(print)
    yield broker
    broker.kill()
