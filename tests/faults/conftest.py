"""The broker that faults may stop, and the table of faults at the end."""

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
    """A broker that may be killed and paused; `kafka` is for the tests that need it whole."""
    if (lacking := missing_tools()) and not os.environ.get("CI"):
        pytest.skip(f"a local Kafka needs {' and '.join(lacking)}")
    own = Broker(tmp_path_factory.mktemp("broker"), free_port(), free_port())
    own.start(print)
    yield own
    own.kill()
