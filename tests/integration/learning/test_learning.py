"""The learner learns a hidden preference from random weights, with controls.

Models, reward model and PPO are the learner's own, at the size of `bench/laboratory.py`;
`bench/learning_table.py` prints the same figures for several seeds and more configurations.
"""

from pathlib import Path

import pytest

from bench.laboratory import Laboratory, make_models
from bench.learning_table import LINES, LearningResult, run_line

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LearningResult]:
    """Return the results with KL penalty and pre-training loss, without the loss, without both."""
    folder: Path = tmp_path_factory.mktemp("learning")
    make_models(folder, seed=0)
    lab = Laboratory(folder, "polite", seed=0)
    found = {n: run_line(lab, LINES[n], folder) for n in ("default", "no ptx", "no KL, no ptx")}
    print(found)
    return found


def test_raters_prefer_the_learned_policy_and_text_loss_stays_low(
    results: dict[str, LearningResult],
) -> None:
    assert results["default"].win >= 0.8
    assert results["default"].nll_increase <= 0.15


def test_without_the_pretraining_loss_text_loss_rises(results: dict[str, LearningResult]) -> None:
    without = results["no ptx"].nll_increase
    assert without > max(0.15, results["default"].nll_increase + 0.15)


def test_without_the_kl_penalty_the_policy_diverges_without_gain(
    results: dict[str, LearningResult],
) -> None:
    default, control = results["default"], results["no KL, no ptx"]
    assert control.kl > 1.3 * default.kl
    assert control.win < default.win + 0.03
    assert control.nll_increase > 0.15
