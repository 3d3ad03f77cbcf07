"""Homes whose first cycle was done without interruption."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.support.learner_cycles import LORA, killed_or_done
from tests.support.learning import make_home


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose first cycle was done without interruption."""
    home = make_home(tmp_path_factory.mktemp("learned"))
    killed_or_done(home)
    return home


@pytest.fixture(scope="session")
def learned_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose first cycle trained adapters, without interruption."""
    home = make_home(tmp_path_factory.mktemp("learned-adapter"))
    killed_or_done(home, settings=LORA)
    return home


@pytest.fixture(scope="session")
def _stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Homes whose first cycle was killed before its gate, and before publishing."""
    folder = tmp_path_factory.mktemp("stopped")
    home, armed, found = make_home(folder / "home"), folder / "failpoints", {}
    for stage in ("gate", "publish"):
        armed.write_text(f"learner.{stage}=kill\n")
        assert killed_or_done(home, armed) == -signal.SIGKILL
        found[stage] = shutil.copytree(home, folder / stage)
    return found


@pytest.fixture
def before_gate(_stopped: dict[str, Path], tmp_path: Path) -> Path:
    """A home whose first cycle has trained a candidate."""
    return shutil.copytree(_stopped["gate"], tmp_path / "home")


@pytest.fixture
def before_publishing(_stopped: dict[str, Path], tmp_path: Path) -> Path:
    """A home whose first cycle has a candidate that passed the gate."""
    return shutil.copytree(_stopped["publish"], tmp_path / "home")
