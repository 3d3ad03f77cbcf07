"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) on a frozen model, by the PEFT library.

The policy, the reward model, the judge and the critic each have their own adapter on one trunk in
memory; without an adapter that trunk is the reference policy. Not supported: adapters on the
embeddings and the output head, and dropout, with which PPO's ratio would not start at 1.
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
_PREFIX: Final = "base_model.model."  # of tensor names in files, as PEFT and vLLM expect it
_NAME: Final = "default"  # PEFT's name of a model's only adapter


def is_adapter(folder: Path | str) -> bool:
    """Check whether a folder holds an adapter rather than full weights."""
    return (Path(folder) / _CONFIG).exists()


def add_adapter(model: PreTrainedModel, settings: LoraSettings, seed: int) -> PreTrainedModel:
    """Add a new adapter to every linear layer of the trunk, in place; only it is trainable.

    Its second matrix is zero, so the outputs do not change at first.

    Args:
        model: Model to adapt.
        settings: Rank and alpha of the adapter.
        seed: Seed of the adapter's first matrix.

    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",  # PEFT excludes the output head
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),  # GPT-2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # PEFT gives it the dtype of the base weights
            parameter.data = parameter.data.float()
    return model


def load_adapter(model: PreTrainedModel, folder: Path | str) -> PreTrainedModel:
    """Load the adapter in `folder` onto its base model, in place; the adapter is trainable."""
    return _load_peft_model(model, folder).get_base_model()


def merge_adapter(model: PreTrainedModel, folder: Path | str) -> PreTrainedModel:
    """Merge the adapter in `folder` into the weights, in place; all weights are trainable."""
    merged = _load_peft_model(model, folder).merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    return merged.requires_grad_(True)


def _load_peft_model(model: PreTrainedModel, folder: Path | str) -> PeftModel:
    return PeftModel.from_pretrained(
        model, str(folder), is_trainable=True, torch_device=str(model.device)
    )


def write_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's adapter in PEFT's format.

    It does not name its base: the manifest does.
    """
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {f"{_PREFIX}{name}": weight.contiguous() for name, weight in weights.items()},
        folder / _WEIGHTS,
    )
    config: LoraConfig = model.peft_config[_NAME]
    config.base_model_name_or_path = None  # PEFT may have set a local path
    config.target_modules = sorted(config.target_modules or ())  # the order of a set is not fixed
    config.save_pretrained(str(folder))
