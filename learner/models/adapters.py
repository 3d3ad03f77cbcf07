"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) on a frozen model, by the library peft.

The policy, the reward model, the judge and the critic each have an adapter of their own on one
trunk in memory; without an adapter that trunk is the reference. Left out: adapters on embeddings
and the output head, and dropout, under which PPO's ratio would not start at 1.
"""

from pathlib import Path
from typing import Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from learner.settings import LoraSettings

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."  # of names in files; peft's own and vLLM's readers expect it
_NAME: Final = "default"  # of the one adapter of a model, in peft


def is_adapter(folder: Path | str) -> bool:
    """Say whether a folder holds an adapter, not full weights."""
    return (Path(folder) / _CONFIG).exists()


def add_adapter(model: PreTrainedModel, settings: LoraSettings, seed: int) -> PreTrainedModel:
    """Put a new adapter on every linear layer of the trunk, in place; nothing else is trained.

    Its second matrix is zero, so the outputs are exactly those of `model` at first.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",  # peft leaves the output head out
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),  # GPT-2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # peft gives it the format of the weights under it
            parameter.data = parameter.data.float()
    return model


def load_adapter(model: PreTrainedModel, folder: Path | str) -> PreTrainedModel:
    """Put the adapter in `folder` on the model that it was made for, in place, to be trained on."""
    return _loaded(model, folder).get_base_model()


def merge_adapter(model: PreTrainedModel, folder: Path | str) -> PreTrainedModel:
    """Add the adapter in `folder` to the weights themselves, in place; all of them are trained."""
    whole = _loaded(model, folder).merge_and_unload()
    assert isinstance(whole, PreTrainedModel)
    return whole.requires_grad_(True)


def _loaded(model: PreTrainedModel, folder: Path | str) -> PeftModel:
    return PeftModel.from_pretrained(
        model, str(folder), is_trainable=True, torch_device=str(model.device)
    )


def write_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's adapter in peft's format; it names no base, the manifest does."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {f"{_PREFIX}{name}": weight.contiguous() for name, weight in weights.items()},
        folder / _WEIGHTS,
    )
    config: LoraConfig = model.peft_config[_NAME]
    config.base_model_name_or_path = None  # a path of this machine, where peft set it
    config.target_modules = sorted(config.target_modules or ())  # a set's order is not fixed
    config.save_pretrained(str(folder))
