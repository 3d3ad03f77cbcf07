"""The processes that train one model together: a single one, or as many as torchrun started."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from learner.models.model import layers_of

_TIMEOUT: Final = timedelta(minutes=10)
_T = TypeVar("_T")


class Ranks:
    """One process's view of all of them. Every process must call the same methods in turn."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Be the `rank`-th of `size`."""
        self.rank = rank
        self.size = size

    def share(self, items: Sequence[_T]) -> list[_T]:
        """Return this process's part of a list that all have."""
        return list(items[self.rank :: self.size])

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, by rank."""
        return (
            [values] if self.size == 1 else [t.to(values.device) for t in self._all(values.cpu())]
        )

    def total(self, value: float) -> float:
        """Return the sum over all processes."""
        return value if self.size == 1 else sum(self._all(value))

    def most(self, value: int) -> int:
        """Return the greatest of all processes' values."""
        return value if self.size == 1 else max(self._all(value))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def _all(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def shard(self, module: nn.Module) -> None:
        """Spread a module's parameters over the processes, layer by layer (PyTorch's FSDP2).

        Gradients are added up, not averaged: losses are divided by global counts. Frozen weights
        under adapters stay whole, shared with other models and in a format of their own.
        """
        if self.size == 1:
            return
        mesh = init_device_mesh(next(module.parameters()).device.type, (self.size,))
        trained = any(p.requires_grad for p in module.parameters())
        whole = {p for p in module.parameters() if trained and not p.requires_grad}
        for part in (*layers_of(module), module):
            spread = fully_shard(part, mesh=mesh, ignored_params=whole)
            spread.set_gradient_divide_factor(1.0)
            spread.set_force_sum_reduction_for_comms(True)

    def sum_gradients(self, module: nn.Module) -> None:
        """Add up the gradients of a module that is not spread."""
        if self.size > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started; without it this process is alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_TIMEOUT)
    try:
        ranks = Ranks(dist.get_rank(), size)
        yield ranks
        ranks.wait()  # nobody goes while another still needs them
    finally:
        dist.destroy_process_group()


@torch.no_grad()
def copy_unsharded(model: PreTrainedModel, into: PreTrainedModel) -> None:
    """Copy the trained parameters of a model that may be spread into a whole one."""
    theirs = dict(into.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            theirs[name].copy_(whole)
