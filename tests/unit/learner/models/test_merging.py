"""LoRA adapters added into the weights that an engine loads."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from learner.errors import ModelUnusable
from learner.models.merging import merged_weights

IDS = torch.tensor([[3, 7, 9, 11]])


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def adapted(model: nn.Module, **options: object) -> nn.Module:
    """Put adapters with random weights into a copy of the model."""
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], **options)
    found = inject_adapter_in_model(config, copy.deepcopy(model))
    torch.manual_seed(1)
    for name, parameter in found.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter)
    return found


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def test_an_adapted_weight_is_the_base_and_scaled_b_times_a() -> None:
    layer = nn.Module()
    layer.q_proj = nn.Linear(2, 2)
    layer.down_proj = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.q_proj.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    found = inject_adapter_in_model(LoraConfig(r=1, lora_alpha=3, target_modules=["q_proj"]), layer)
    with torch.no_grad():
        found.q_proj.lora_A.default.weight.copy_(torch.tensor([[1.0, -1.0]]))
        found.q_proj.lora_B.default.weight.copy_(torch.tensor([[2.0], [0.5]]))
    weights = dict(merged_weights(found))
    # Scaling is 3 / 1, and B·A is [[2, -2], [.5, -.5]].
    assert weights["q_proj.weight"].tolist() == [[7.0, -4.0], [4.5, 2.5]]
    assert set(weights) == {"q_proj.weight", "q_proj.bias", "down_proj.weight"}


def test_merged_weights_compute_what_the_adapted_model_does() -> None:
    base = tiny_llama()
    model = adapted(base)
    before = {n: p.clone() for n, p in model.named_parameters()}
    merged = tiny_llama()
    merged.load_state_dict(dict(merged_weights(model)))
    assert (logits(model) - logits(base)).abs().max() > 0.1
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_without_adapters_the_weights_are_the_models_own_and_not_copied() -> None:
    model = tiny_llama()
    found = dict(merged_weights(model))
    own = model.state_dict()
    assert list(found) == list(own)
    assert all(found[n].data_ptr() == own[n].data_ptr() for n in own)


def test_adapters_that_are_switched_off_or_merged_already_are_not_added() -> None:
    base = tiny_llama()
    model = adapted(base)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.enable_adapters(False)
    weights = dict(merged_weights(model))
    assert all(torch.equal(weights[n], w) for n, w in base.state_dict().items())
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.enable_adapters(True)
            module.merge()
    again = tiny_llama()
    again.load_state_dict(dict(merged_weights(model)))
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)


def test_another_kind_of_adapter_is_refused() -> None:
    with pytest.raises(ModelUnusable, match="plain LoRA"):
        dict(merged_weights(adapted(tiny_llama(), use_dora=True)))
