"""From random weights to what people like: the learner on a hidden preference, and its controls.

Models, votes, reward model and PPO are the learner's own, at the size of `bench/laboratory.py`;
`bench/learning_table.py` prints the same figures for several seeds, and more lines.
"""

from pathlib import Path

import pytest

from bench.laboratory import Laboratory, make_models
from bench.learning_table import LINES, LearningResult, run_line

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LearningResult]:
    """What came out with KL and pre-training loss, without the one, without both."""
    folder: Path = tmp_path_factory.mktemp("learning")
    make_models(folder, seed=0)
    lab = Laboratory(folder, "polite", seed=0)
    found = {n: run_line(lab, LINES[n], folder) for n in ("default", "no ptx", "no KL, no ptx")}
    print(found)
    return found


def test_people_prefer_what_was_learned_and_text_is_not_forgotten(
    results: dict[str, LearningResult],
) -> None:
    assert results["default"].win >= 0.8
    assert results["default"].nll_increase <= 0.15


def test_without_the_pretraining_loss_text_is_forgotten(results: dict[str, LearningResult]) -> None:
    without = results["no ptx"].nll_increase
    assert without > max(0.15, results["default"].nll_increase + 0.15)


def test_without_the_kl_the_policy_goes_further_for_nothing(
    results: dict[str, LearningResult],
) -> None:
    good, control = results["default"], results["no KL, no ptx"]
    assert control.kl > 1.3 * good.kl
    assert control.win < good.win + 0.03
    assert control.nll_increase > 0.15
