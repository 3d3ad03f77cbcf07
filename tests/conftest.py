"""Markers by folder, groups by shared fixture, and the broker that several kinds of tests need."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from deploy.local.broker import Broker, missing_tools
from tests.support.servers import free_port

# Two processes run tests side by side: a thread each for what computes in them, and in the
# servers that they start, since threads that spin for a core which another has cost the most.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS: Final = Path(__file__).parent
# A test is marked by the folder that it is in; `uv run pytest` leaves these out (pyproject.toml).
FOLDERS: Final = ("vllm", "kafka", "browser", "learning", "faults")
# What is slow to start and shared: the tests that use one run in one process (pytest-xdist).
SHARED: Final = ("plaudit", "adapted", "engine", "broker", "lines", "stand_in")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run whole sets in two processes, and files that are named in this one."""
    return 0 if any(".py" in argument for argument in config.invocation_params.args) else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and group those that share a server."""
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
    """A real Kafka on this machine. Where it cannot be had: a skip, in CI a failure."""
    if (lacking := missing_tools()) and not os.environ.get("CI"):
        pytest.skip(f"a local Kafka needs {' and '.join(lacking)}")
    broker = Broker(tmp_path_factory.mktemp("kafka"), free_port(), free_port())
    broker.start(print)
    yield broker
    broker.stop()
