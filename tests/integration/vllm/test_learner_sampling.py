"""A whole learning cycle whose answers are sampled by a vLLM engine."""

import os
import sys
from pathlib import Path

import psutil
import torch

from learner.cycle.state import latest_cycle
from tests.support.learner_cycles import SETTINGS, weights
from tests.support.learning import cycle_ended, learn_until, make_home


def test_a_cycle_can_sample_with_vllm_and_leaves_nothing_running(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    environment, children = dict(os.environ), psutil.Process().children(recursive=True)
    learn_until(home, SETTINGS.model_copy(update={"sampler": "vllm"}), cycle_ended(home))
    state = latest_cycle(home)
    assert state is not None
    assert (state.outcome, state.version) == ("published", 2)
    assert weights(home) != weights(home, 1)
    # The engine is gone without a trace in this process, so that another can be started.
    assert "vllm" in sys.modules
    assert not torch.distributed.is_initialized()
    assert psutil.Process().children(recursive=True) == children
    added = os.environ.keys() - environment.keys()
    assert not [name for name in added if name.startswith(("VLLM", "LD_", "OMP"))]
