"""The weights of a policy as an engine loads them: original names, with LoRA adapters merged.

Not supported: DoRA and other variants of LoRA, which are not W + s·B·A.
"""

from collections.abc import Iterator

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from learner.errors import ModelUnusable

_BASE = ".base_layer."  # PEFT's name of the layer below an adapter


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight under its name without adapters; adapted weights as W + s·B·A.

    The model is not changed, and weights without an adapter are not copied.

    Args:
        model: Model with or without PEFT's LoRA layers; for a `PeftModel`, pass its base model.

    Raises:
        ModelUnusable: An adapter is of a kind that cannot be merged.

    """
    modules = dict(model.named_modules())
    for name, weight in model.state_dict().items():
        owner, base, parameter = name.partition(_BASE)
        if base and parameter == "weight":
            yield f"{owner}.weight", _merged(weight, modules[owner])
        elif base:
            yield f"{owner}.{parameter}", weight
        elif ".lora_" not in name:
            yield name, weight


def _merged(weight: Tensor, layer: nn.Module) -> Tensor:
    if not isinstance(layer, LoraLayer) or layer.lora_variant:
        raise ModelUnusable(
            f"an adapter of type {type(layer).__name__} cannot be merged: only plain LoRA can"
        )
    if layer.disable_adapters or layer.merged:
        return weight
    for adapter in layer.active_adapters:
        if adapter in layer.scaling:
            delta: Tensor = layer.get_delta_weight(adapter)  # type: ignore[operator]
            weight = weight + delta.detach()
    return weight
