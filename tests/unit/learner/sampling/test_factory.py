"""How many answers are sampled at once."""

from learner.sampling.factory import _batch
from learner.settings import PPOSettings


def test_the_small_model_samples_all_answers_at_once_and_long_ones_wait() -> None:
    assert _batch(PPOSettings()) == PPOSettings().rollouts == 96
    long = PPOSettings(max_prompt_tokens=1024, max_tokens=256, micro_tokens=1280)
    assert _batch(long) == 16
    assert _batch(PPOSettings(max_prompt_tokens=1000, max_tokens=1000, micro_tokens=1)) == 1
