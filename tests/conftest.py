"""Mark tests by folder, group those that share a server, and start the shared Kafka broker."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling

from deploy.local.broker import Broker, missing_tools
from tests.support.servers import free_port

# Two processes run tests in parallel. One compute thread each, also in the servers that they start:
# threads that spin while they wait for a busy core are the largest cost.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Servers and commands start often: without cached bytecode, half of their time is compiling it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Programs under test get ctrl-C as in a terminal. A shell starts background jobs with the signal
# ignored, and what is ignored stays so in every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS: Final = Path(__file__).parent
# Each test is marked by its folder; `uv run pytest` skips these markers (pyproject.toml).
FOLDERS: Final = ("vllm", "kafka", "browser", "learning", "faults")
# Files that share a server run in one process, and groups that take longest start first. Other
# files of these folders are groups of their own; all other tests are distributed one by one.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "learning": ("integration/learning/test_learning.py",),
    "vLLM server": tuple(
        f"integration/vllm/test_{name}.py"
        for name in (
            *("swap", "feedback_http", "operators", "serving", "responses", "body_fuzz"),
            *("request_edges", "prometheus"),
        )
    ),
    "page on its own": tuple(
        f"browser/test_{name}.py" for name in ("access", "sending", "turns", "views")
    ),
    "kills": ("faults/test_kill.py",),
    "documentation": ("integration/vllm/test_documented_commands.py",),
    "faults": ("faults/test_faults.py",),
    "page on a server": tuple(
        f"browser/test_{name}.py" for name in ("away", "chat", "hostile", "swap", "votes")
    ),
    "kafka": (
        *(f"integration/kafka/test_{n}.py" for n in ("forget_kafka", "kafka", "lease")),
        "integration/kafka/test_kafka_offsets.py",
        "contract/test_event_log.py",
    ),
    "crashes": ("integration/learning/test_crash.py",),
    "adapters": tuple(
        f"integration/vllm/test_{name}.py" for name in ("adapters", "duel_votes", "tools")
    ),
}
GROUP_OF: Final = {f"tests/{file}": name for name, files in GROUPS.items() for file in files}


class GroupScheduling(LoadScopeScheduling):
    """Distribute tests by the groups above; pytest-xdist's own marker fails with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        default = file if _markers(file) else nodeid
        return GROUP_OF.get(file, default)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Use the groups above."""
    return GroupScheduling(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use two workers for whole suites, and none if single files are given."""
    return 0 if any(".py" in argument for argument in config.invocation_params.args) else 2


def _markers(file: str) -> list[str]:
    return [name for name in FOLDERS if name in Path(file).parts]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by folder, and put groups that take long first."""
    order = {name: number for number, name in enumerate(GROUPS)}
    for item in items:
        for name in _markers(str(item.path.relative_to(TESTS))):
            item.add_marker(name)
    items.sort(key=lambda item: order.get(GROUP_OF.get(item.nodeid.partition("::")[0]), len(order)))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Start a Kafka broker on this machine; without the tools for it, skip (in CI, fail)."""
    if (missing := missing_tools()) and not os.environ.get("CI"):
        pytest.skip(f"a local Kafka needs {' and '.join(missing)}")
    broker = Broker(tmp_path_factory.mktemp("kafka"), free_port(), free_port())
    broker.start(print)
    yield broker
    broker.stop()
