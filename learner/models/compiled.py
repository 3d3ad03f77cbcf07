"""Layers compiled by torch.compile (PyTorch 2; Ansel et al. 2024), where a model is large enough.

A pass of SmolLM2-135M with adapters takes .6 of its time on a processor. To compile takes a
minute once (the kernels are kept on disk) and some seconds in each process, which is more than a
small model has to gain in a cycle. In float32 products are most of the time, with little to gain.
Left out: layers whose own weights are trained. The gradient of a norm's is a sum over all tokens,
whose order goes by the rows that were seen first, so that what is resumed would round otherwise.
"""

import logging
import os
import shutil
from typing import Final

import torch
from torch import nn

from learner.models.parameters import layers_of

logger = logging.getLogger(__name__)

# The first layer and the others, with gradient and without, with a mask and without, one row and
# many. Beyond the limit a layer would not be compiled, and so round otherwise than the rest.
_VARIANTS: Final = 64


def compile_layers(model: nn.Module) -> None:
    """Compile the layers of a model, in place, when they are first used, for rows of any size.

    Where they cannot be compiled they stay as they are, which the log says.
    """
    if next(model.parameters()).device.type == "cpu" and not shutil.which(
        os.environ.get("CXX", "g++")
    ):
        logger.warning("there is no C++ compiler (g++) here: training takes up to twice as long")
        return
    torch._dynamo.config.recompile_limit = _VARIANTS
    torch._dynamo.config.suppress_errors = True
    torch._inductor.config.compile_threads = 1  # chats go on beside it, maybe on the same cores
    for layer in layers_of(model):
        layer.compile(dynamic=True)
