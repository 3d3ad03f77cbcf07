"""Training in several processes: a single process, or those that torchrun started."""

import os
from collections.abc import Callable, Iterator, Sequence
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

from learner.models.parameters import layers_of

_TIMEOUT: Final = timedelta(minutes=10)
_T = TypeVar("_T")


class Ranks:
    """The group of training processes, as seen by one of them.

    Every process must call the same methods in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1, first: int = 0) -> None:
        """Describe a process.

        Args:
            rank: Number of the process in `torch.distributed`.
            size: Number of processes.
            first: Number in `torch.distributed` of the process that has rank 0 here.

        """
        self.rank = (rank - first) % size
        self.size = size
        self._first = first

    def shard_items(self, items: Sequence[_T]) -> list[_T]:
        """Return this process's share of a list that all processes have."""
        return list(items[self.rank :: self.size])

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, ordered by rank."""
        return (
            [values] if self.size == 1 else [t.to(values.device) for t in self._all(values.cpu())]
        )

    def total(self, value: float) -> float:
        """Return the sum of all processes' values."""
        return value if self.size == 1 else sum(self._all(value))

    def maximum(self, value: int) -> int:
        """Return the greatest of all processes' values."""
        return value if self.size == 1 else max(self._all(value))

    def broadcast(self, make: Callable[[], _T]) -> _T:
        """Return what `make` returns in the process of rank 0, which is sent to the others."""
        if self.size == 1:
            return make()
        sent: list[Any] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(sent, src=self._first)
        value: _T = sent[0]
        return value

    def wait(self) -> None:
        """Wait until all processes have called this method."""
        if self.size > 1:
            dist.barrier()

    def _all(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found[self._first :] + found[: self._first]

    def shard(self, module: nn.Module) -> None:
        """Shard a module's parameters over the processes, layer by layer (PyTorch's FSDP2).

        Gradients are summed, not averaged, because losses are divided by global counts. Frozen
        weights below adapters are not sharded: they are shared with other models and have their
        own dtype.
        """
        if self.size == 1:
            return
        mesh = init_device_mesh(next(module.parameters()).device.type, (self.size,))
        has_trainable = any(p.requires_grad for p in module.parameters())
        unsharded = {p for p in module.parameters() if has_trainable and not p.requires_grad}
        for part in (*layers_of(module), module):
            sharded = fully_shard(part, mesh=mesh, ignored_params=unsharded)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)

    def sum_gradients(self, module: nn.Module) -> None:
        """Sum the gradients of an unsharded module over all processes."""
        if self.size > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)


@contextmanager
def join_ranks(*, leads: bool = True) -> Iterator[Ranks]:
    """Join the process group that torchrun started, and leave it at the end of the context.

    Without torchrun, yield a group of this process alone. torchrun numbers machines as it likes;
    here rank 0 is the first process of the machine that leads.

    Args:
        leads: Whether this process runs on the machine that leads.

    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_TIMEOUT)
    try:
        ranks = Ranks(dist.get_rank(), size, _first_leading(size, leads=leads))
        yield ranks
        ranks.wait()  # no process leaves while another still needs it
    finally:
        dist.destroy_process_group()


def _first_leading(size: int, *, leads: bool) -> int:
    """Return the number of the first process on the machine that leads."""
    leading = [False] * size
    dist.all_gather_object(leading, leads)
    return leading.index(True)


@torch.no_grad()
def copy_unsharded(model: PreTrainedModel, into: PreTrainedModel) -> None:
    """Copy the trainable parameters of a model, sharded or not, into an unsharded one."""
    targets = dict(into.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            targets[name].copy_(full)
