"""Mark tests by folder, group them by shared fixture, and start the shared Kafka broker."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from deploy.local.broker import Broker, missing_tools
from tests.support.servers import free_port

# Two processes run tests in parallel. One compute thread each, also in the servers that they start:
# threads that spin while they wait for a busy core are the largest cost.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS: Final = Path(__file__).parent
# Each test is marked by its folder; `uv run pytest` skips these markers (pyproject.toml).
FOLDERS: Final = ("vllm", "kafka", "browser", "learning", "faults")
# Shared fixtures that start slowly: tests that use the same one run in one process (pytest-xdist).
SHARED: Final = ("plaudit", "adapter_server", "engine", "broker", "results", "stand_in_server")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use two workers for whole suites, and none if single files are given."""
    return 0 if any(".py" in argument for argument in config.invocation_params.args) else 2


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and group tests that share a server."""
    for item in items:
        folders = item.path.relative_to(TESTS).parts[:-1]
        for name in FOLDERS:
            if name in folders:
                item.add_marker(name)
        used = getattr(item, "fixturenames", ())
        shared = next((name for name in SHARED if name in used), None)
        if "kafka" in used or (item.get_closest_marker("kafka") and shared is None):
            item.add_marker("kafka")
            item.add_marker(pytest.mark.xdist_group("kafka"))
        elif shared is not None:
            item.add_marker(pytest.mark.xdist_group(f"{folders[-1]} {shared}"))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Start a Kafka broker on this machine; without the tools for it, skip (in CI, fail)."""
    if (missing := missing_tools()) and not os.environ.get("CI"):
        pytest.skip(f"a local Kafka needs {' and '.join(missing)}")
    broker = Broker(tmp_path_factory.mktemp("kafka"), free_port(), free_port())
    broker.start(print)
    yield broker
    broker.stop()
