"""The parts and parameters of a language model: count, select and share them."""

import copy
from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel

_Module = TypeVar("_Module", bound=nn.Module)


def count_parameters(model: nn.Module) -> int:
    """Count the parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters())


def trainable_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that are not frozen."""
    return (p for p in model.parameters() if p.requires_grad)


def is_trainable(model: nn.Module) -> bool:
    """Check whether the model has any parameter that is not frozen."""
    return any(p.requires_grad for p in model.parameters())


def hidden_size(model: PreTrainedModel) -> int:
    """Return the width of the model's hidden states."""
    return int(model.config.get_text_config().hidden_size)


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """Return the part of a causal language model below its output head."""
    trunk = model.base_model
    assert isinstance(trunk, nn.Module)
    return trunk


def layers_of(model: nn.Module) -> Sequence[nn.Module]:
    """Return the transformer layers of a model: its first `ModuleList`, or nothing."""
    lists = (part for part in model.modules() if isinstance(part, nn.ModuleList))
    return tuple(next(lists, ()))


def copy_shared(model: _Module) -> _Module:
    """Copy a model: frozen parameters are shared with the copy, trainable ones are copied.

    The copy is not compiled, even if the model is.
    """
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})
