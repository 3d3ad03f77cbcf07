"""Home folders whose first cycle has ended, or was killed at a stage."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.support.learner_cycles import LORA, run_until_done_or_killed
from tests.support.learning import make_home


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose first cycle ran without interruption."""
    home = make_home(tmp_path_factory.mktemp("learned"))
    run_until_done_or_killed(home)
    return home


@pytest.fixture(scope="session")
def finished_adapter_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose first cycle trained adapters, without interruption."""
    home = make_home(tmp_path_factory.mktemp("learned-adapter"))
    run_until_done_or_killed(home, settings=LORA)
    return home


@pytest.fixture(scope="session")
def _killed_homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return homes whose first cycle was killed before the gate and before publishing, by stage."""
    folder = tmp_path_factory.mktemp("stopped")
    home, armed, found = make_home(folder / "home"), folder / "failpoints", {}
    for stage in ("gate", "publish"):
        armed.write_text(f"learner.{stage}=kill\n")
        assert run_until_done_or_killed(home, armed) == -signal.SIGKILL
        found[stage] = shutil.copytree(home, folder / stage)
    return found


@pytest.fixture
def before_gate(_killed_homes: dict[str, Path], tmp_path: Path) -> Path:
    """Return a home whose first cycle was killed before the gate."""
    return shutil.copytree(_killed_homes["gate"], tmp_path / "home")


@pytest.fixture
def before_publishing(_killed_homes: dict[str, Path], tmp_path: Path) -> Path:
    """Return a home whose first cycle passed the gate and was killed before publishing."""
    return shutil.copytree(_killed_homes["publish"], tmp_path / "home")
