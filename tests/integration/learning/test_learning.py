"""The learner learns a hidden preference with the default model, with controls.

Reward model and PPO are the learner's own, at the size of `bench/laboratory.py`;
`bench/learning_table.py` prints the same figures for several seeds and more configurations.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from bench.laboratory import Laboratory
from bench.learning_table import LINES, LearningResult, run_line

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LearningResult]:
    """Return a function that runs a line of the learning table, once."""
    folder: Path = tmp_path_factory.mktemp("learning")
    lab = Laboratory("polite", seed=0)
    return cache(lambda name: run_line(lab, LINES[name], folder))


def test_raters_prefer_the_learned_policy_and_text_loss_stays_low(
    run: Callable[[str], LearningResult],
) -> None:
    first = run("first cycle, short")
    assert first.win >= 0.7
    assert first.nll_increase <= 0.15


@pytest.mark.slow
def test_a_second_cycle_goes_on_where_the_first_ended(run: Callable[[str], LearningResult]) -> None:
    default = run("default")
    assert default.win >= 0.8
    assert default.nll_increase <= 0.15


@pytest.mark.slow
def test_without_kl_penalty_and_pretraining_loss_the_policy_diverges_without_gain(
    run: Callable[[str], LearningResult],
) -> None:
    default, control = run("default"), run("no KL, no ptx")
    assert control.kl > 1.3 * default.kl
    assert control.win < default.win + 0.03
    assert control.nll_increase > max(0.15, default.nll_increase + 0.15)


@pytest.mark.slow
def test_without_the_pretraining_loss_alone_text_loss_rises(
    run: Callable[[str], LearningResult],
) -> None:
    default, control = run("default"), run("no ptx")
    assert control.nll_increase > max(0.15, default.nll_increase + 0.15)
