"""Defaults that depend on the model."""

from learner.settings import LORA_RATE, LearnerSettings, PPOSettings


def test_large_models_have_other_defaults_but_keep_explicit_settings() -> None:
    settings = LearnerSettings(ppo=PPOSettings(max_tokens=99))
    small = {"tune": "full", "compiled": False}
    assert settings.for_model(5_000_000, 1.0) == settings.model_copy(update=small)
    assert settings.for_model(5_000_000, 0.6).ppo.temperature == 0.6
    own = settings.for_model(5_000_000, 0.6, own_text=True)
    assert own.ppo.text_coef > settings.ppo.text_coef
    large = settings.for_model(135_000_000, 0.6)
    assert (large.tune, large.compiled) == ("lora", True)
    assert not LearnerSettings(compiled=False).for_model(135_000_000, 0.6).compiled
    assert large.ppo.max_tokens == 99
    assert large.ppo.text_rows < settings.ppo.text_rows
    assert large.ppo.learning_rate == LORA_RATE, "adapters take larger steps, in models of any size"
    assert large.ppo.model_fields_set == {"max_tokens"}, "what was set can still be told apart"
