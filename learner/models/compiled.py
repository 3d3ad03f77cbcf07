"""Compile the layers of large models with torch.compile (PyTorch 2; Ansel et al. 2024).

On a CPU, a pass of SmolLM2-135M with adapters takes 0.6 of the time. Compilation takes a minute
once (the kernels are cached on disk) and some seconds in each process, more than a small model
saves in a cycle. In float32 there is little to gain, because matrix products take most of the time.
Not supported: layers whose own weights are trained. The gradient of a norm's weight is a sum over
all tokens, and compiled kernels add in an order that depends on the rows seen first: a resumed run
would round differently.
"""

import logging
import os
import shutil
from typing import Final

import torch
from torch import nn

from learner.models.parameters import layers_of

logger = logging.getLogger(__name__)

# Variants of a compiled layer: the first layer or another, with or without gradient, with or
# without a mask, one row or many. Beyond this limit a layer would run uncompiled and round
# differently from the others.
_MAX_VARIANTS: Final = 64


def compile_layers(model: nn.Module) -> None:
    """Set up the layers of a model, in place, to be compiled at first use for rows of any size.

    If there is no C++ compiler, log a warning and leave the layers as they are.
    """
    if next(model.parameters()).device.type == "cpu" and not shutil.which(
        os.environ.get("CXX", "g++")
    ):
        logger.warning("no C++ compiler (g++) found: training takes up to twice as long")
        return
    torch._dynamo.config.recompile_limit = _MAX_VARIANTS
    torch._dynamo.config.suppress_errors = True
    torch._inductor.config.compile_threads = 1  # serving may run on the same cores
    for layer in layers_of(model):
        layer.compile(dynamic=True)
