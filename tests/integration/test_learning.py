"""From random weights to what people like: the learner on a hidden preference, and its controls.

Models, votes, reward model and PPO are the learner's own, at the size of
`bench/learning_seeds.py`, which prints the same figures for several seeds.
"""

from pathlib import Path

import pytest

from bench.learning_seeds import CONTROLS, SMALL_PPO, Laboratory, Row, make_models, run_setting
from learner.settings import RewardSettings

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """What came out with KL and pre-training loss, without the one, without both."""
    folder: Path = tmp_path_factory.mktemp("learning")
    make_models(folder, seed=0)
    laboratory = Laboratory(folder, "polite", seed=0)
    reward, report = laboratory.reward_model(laboratory.votes(400), RewardSettings())
    rows = {name: run_setting(laboratory, reward, report, name, SMALL_PPO) for name in CONTROLS}
    for row in rows.values():
        print(row)
    return rows


def test_people_prefer_what_was_learned_and_text_is_not_forgotten(rows: dict[str, Row]) -> None:
    row = rows["KL and ptx"]
    assert row.win_rate >= 0.8
    assert row.nll_increase <= 0.15


def test_without_the_pretraining_loss_text_is_forgotten(rows: dict[str, Row]) -> None:
    row = rows["no ptx"]
    assert row.last_score > row.first_score
    assert row.nll_increase > max(0.15, rows["KL and ptx"].nll_increase + 0.15)


def test_without_the_kl_the_policy_goes_further_for_nothing(rows: dict[str, Row]) -> None:
    good, row = rows["KL and ptx"], rows["no KL, no ptx"]
    assert row.last_score > row.first_score + 1
    assert row.kl > 1.3 * good.kl
    assert row.win_rate < good.win_rate + 0.03
    assert row.nll_increase > 0.15
