"""Whether all weights or adapters are trained."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deploy.errors import DeployError
from deploy.sizing.machine import tuning_here
from deploy.sizing.tuning import Tuning, choose_tune, tuning_of
from feedback.registry import home_registry
from tests.support.models import tiny_chat_model


def test_tuning_follows_option_then_setting_then_size_and_serves_old_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder in (model, adapter):
        folder.mkdir()
    save_file({"weight": np.zeros((3, 4), np.int8)}, model / "model.safetensors")
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    registry = home_registry(tmp_path)
    registry.publish(model, version=1, parent=0, base="tiny")
    llama, large = "LlamaForCausalLM", 30_000_001
    assert (choose_tune(llama, large), choose_tune(llama, large - 1)) == ("lora", "full")
    assert (choose_tune(llama, large, "full"), choose_tune(llama, 1, "lora")) == ("full", "lora")
    assert choose_tune("GPT2LMHeadModel", large) == "full", "vLLM cannot serve its adapters"
    with pytest.raises(DeployError, match="--tune full"):
        choose_tune("GPT2LMHeadModel", large, "lora")
    monkeypatch.setenv("PLAUDIT_LEARNER_TUNE", "full")
    assert choose_tune(llama, large) == "full"
    assert tuning_of(tmp_path, "full") == Tuning("full", 0)
    assert tuning_of(tmp_path, "lora") == Tuning("lora", 16)
    monkeypatch.setenv("PLAUDIT_LEARNER_LORA__RANK", "20")
    tuning = tuning_of(tmp_path, "lora")
    assert tuning == Tuning("lora", 32), "the next rank that vLLM accepts"
    assert tuning.serving_environment() == {"PLAUDIT_SERVING_LORA_RANK": "32"}
    registry.publish(adapter, version=2, parent=1, base="tiny", adapter_base=1)
    assert tuning_of(tmp_path, "full") == Tuning("full", 8)
    assert Tuning("full", 0).serving_environment() == {"PLAUDIT_SERVING_LORA_RANK": "0"}


def test_the_tuning_of_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuning_here(tmp_path) is None
    model = tiny_chat_model(tmp_path / "model", 1)
    home_registry(tmp_path).publish(model, version=1, parent=0, base="tiny")
    assert tuning_here(tmp_path) == Tuning("full", 0)
    monkeypatch.setenv("PLAUDIT_LEARNER_TUNE", "lora")
    assert tuning_here(tmp_path) == Tuning("lora", 16)
    assert tuning_here(tmp_path, "full") == Tuning("full", 0)
