"""Training state on disk: what an interrupted training run needs to resume.

Files and folders are replaced atomically: after a crash the old or the new state is there.
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim import Optimizer

from learner.errors import StateUnusable
from learner.models.ranks import Ranks
from protos.checkpoints.durable import fsync_tree, partial_path, replace_file, replace_folder

_TRAINED_ONLY: Final = StateDictOptions(ignore_frozen_params=True, strict=False)
_OTHER_KEY: Final = "the saved training state belongs to {!r}, not to {!r}"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to the file `path`, replacing it atomically."""
    staged = partial_path(path)
    torch.save(state, staged)
    replace_file(staged, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Read the file that `save_state` wrote; None if there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def capture_state(model: nn.Module, optimizer: Optimizer, step: int, key: str) -> dict[str, Any]:
    """Return the state that a training run needs to resume after `step` steps.

    Args:
        model: Model whose trainable parameters are captured.
        optimizer: Optimizer of these parameters.
        step: Number of completed steps.
        key: Text that names all inputs of the run; a run with another key does not resume from it.

    """
    return {
        "key": key,
        "step": step,
        "trained": {n: p.detach() for n, p in model.named_parameters() if p.requires_grad},
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }


def restore_state(state: dict[str, Any], model: nn.Module, optimizer: Optimizer, key: str) -> int:
    """Load a captured state into the model and the optimizer.

    Returns:
        Number of completed steps.

    Raises:
        StateUnusable: The state was captured under another key.

    """
    if state["key"] != key:
        raise StateUnusable(_OTHER_KEY.format(state["key"], key))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state["trained"].items():
            parameters[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return int(state["step"])


def save_sharded(
    folder: Path,
    module: nn.Module,
    optimizer: Optimizer,
    key: str,
    extra: dict[str, float],
    ranks: Ranks,
) -> None:
    """Write trainable parameters and optimizer state, sharded or not, replacing the folder.

    Every process writes its own part (PyTorch's distributed checkpoint).

    Args:
        folder: Folder to write.
        module: Module whose trainable parameters are written.
        optimizer: Optimizer of these parameters.
        key: Text that names all inputs of the run; a run with another key does not resume from it.
        extra: Further numbers to store.
        ranks: Processes that train together.

    """
    staged = partial_path(folder)
    if ranks.rank == 0:
        shutil.rmtree(staged, ignore_errors=True)
    ranks.wait()
    state = {"training": _TrainedState(module, optimizer), "key": key, "extra": extra}
    with _quiet():
        save(state, checkpoint_id=staged, no_dist=ranks.size == 1)
    ranks.wait()
    if ranks.rank == 0:
        fsync_tree(staged)
        replace_folder(staged, folder)
    ranks.wait()


def load_sharded(
    folder: Path, module: nn.Module, optimizer: Optimizer, key: str, ranks: Ranks
) -> dict[str, float] | None:
    """Load what `save_sharded` wrote into the module and the optimizer.

    Returns:
        The stored `extra`; None if there is no such folder.

    Raises:
        StateUnusable: The state was written under another key.

    """
    if not folder.exists():
        return None
    # `load` reads only the entries that are named here.
    empty = {"kl_coef": 0.0, "unfinished_penalty": 0.0, "best_preferred": 0.0, "step": 0}
    state: dict[str, Any] = {"key": "", "extra": empty}
    with _quiet():
        load(state, checkpoint_id=folder, no_dist=ranks.size == 1)
    if state["key"] != key:
        raise StateUnusable(_OTHER_KEY.format(state["key"], key))
    training = {"training": _TrainedState(module, optimizer)}
    with _quiet():
        load(training, checkpoint_id=folder, no_dist=ranks.size == 1)
    extra: dict[str, float] = state["extra"]
    return extra


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning that torch.distributed is off; a single process does not need it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


class _TrainedState(Stateful):
    """Trainable parameters and optimizer state, keyed by parameter name."""

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self._module = module
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._module, self._optimizer, options=_TRAINED_ONLY)
        names = {n for n, p in self._module.named_parameters() if p.requires_grad}
        # Otherwise a frozen head tied to the embedding would be saved under its second name.
        return {"model": {n: model[n] for n in names}, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(
            self._module,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_TRAINED_ONLY,
        )
