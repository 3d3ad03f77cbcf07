"""What a model needs and what it computes on, as input to `learner.sizing`."""

import os

import torch
from transformers import PreTrainedModel

from learner.models.parameters import count_parameters, hidden_size
from learner.sizing import (
    EMBEDDINGS,
    Device,
    ModelShape,
    cpu_device,
    gpu_device,
    machine_memory,
)


def model_shape(model: PreTrainedModel) -> ModelShape:
    """Return the shape of a loaded model."""
    config = model.config.get_text_config()
    matrices = (
        sum(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and not any(part in name for part in EMBEDDINGS)
    )
    return ModelShape(
        architecture=type(model).__name__,
        parameters=count_parameters(model),
        layers=config.num_hidden_layers,
        hidden=hidden_size(model),
        vocabulary=config.vocab_size,
        linear_dimensions=sum(matrices),
        context=getattr(config, "max_position_embeddings", None),
    )


def learner_device(device: torch.device, processes: int = 1) -> Device:
    """Return what the learner computes on.

    Args:
        device: Device of the models.
        processes: Number of processes that share the memory of a processor.

    """
    if device.type == "cuda":
        gpus = range(torch.cuda.device_count())
        return gpu_device([torch.cuda.get_device_properties(i).total_memory for i in gpus])
    return cpu_device(machine_memory() // max(1, processes), len(os.sched_getaffinity(0)))
