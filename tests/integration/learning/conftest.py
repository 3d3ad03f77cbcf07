"""Homes whose first cycle was done without interruption."""

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
