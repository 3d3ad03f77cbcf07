"""The weights of a policy as an engine wants them: under their own names, LoRA adapters added in.

Left out: DoRA and the other variants of LoRA, which are not W + s·B·A.
"""

from collections.abc import Iterator

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from learner.errors import ModelUnusable

_BASE = ".base_layer."  # peft's name for what an adapter adapts


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight by its name without adapters, adapted ones as W + s·B·A.

    The model is not changed; weights without an adapter are given as they are, not copied.

    Args:
        model: With or without LoRA layers of peft in it; of a `PeftModel`, its base model.

    Raises:
        ModelUnusable: An adapter is of a kind that cannot be added in.

    """
    modules = dict(model.named_modules())
    for name, weight in model.state_dict().items():
        owner, base, own_name = name.partition(_BASE)
        if base and own_name == "weight":
            yield f"{owner}.weight", _merged(weight, modules[owner])
        elif base:
            yield f"{owner}.{own_name}", weight
        elif ".lora_" not in name:
            yield name, weight


def _merged(weight: Tensor, layer: nn.Module) -> Tensor:
    if not isinstance(layer, LoraLayer) or layer.lora_variant:
        raise ModelUnusable(f"{type(layer).__name__} is not plain LoRA, which alone can be merged")
    if layer.disable_adapters or layer.merged:
        return weight
    for adapter in layer.active_adapters:
        if adapter in layer.scaling:
            delta: Tensor = layer.get_delta_weight(adapter)  # type: ignore[operator]
            weight = weight + delta.detach()
    return weight
