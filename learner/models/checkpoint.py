"""Training state on disk, whole or absent: written aside, fsynced, renamed."""

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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learner.errors import StateUnusable
from learner.models.adapters import is_adapter, write_adapter
from learner.models.ranks import Ranks
from protos.checkpoints.durable import fsync_tree, partial_path, replace_file, replace_folder

_TRAINED_ONLY: Final = StateDictOptions(ignore_frozen_params=True, strict=False)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the state file `path` with `state` (tensors and plain values)."""
    staged = partial_path(path)
    torch.save(state, staged)
    replace_file(staged, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Read what `save_state` wrote; None where there is nothing."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def training_state(model: nn.Module, optimizer: Optimizer, step: int, key: str) -> dict[str, Any]:
    """Return all that a training run needs to go on from after `step` steps.

    Args:
        key: What the run depends on; a state under another key is not resumed.

    """
    return {
        "key": key,
        "step": step,
        "trained": {n: p.detach() for n, p in model.named_parameters() if p.requires_grad},
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }


def restore(state: dict[str, Any], model: nn.Module, optimizer: Optimizer, key: str) -> int:
    """Put a training state back, and give its number of steps.

    Raises:
        StateUnusable: It was written under another key.

    """
    if state["key"] != key:
        raise StateUnusable(f"saved training state is for {state['key']!r}, not {key!r}")
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
    """Replace the folder by the trained parameters and the optimizer's state, however spread.

    Every process writes its own part (PyTorch's distributed checkpoint).

    Args:
        key: What the run depends on; a state under another key is not resumed.

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
    """Put back what `save_sharded` wrote, and give its `extra`; None where there is nothing.

    Raises:
        StateUnusable: It was written under another key.

    """
    if not folder.exists():
        return None
    # Only what is named here is read.
    empty = {"kl_coef": 0.0, "unfinished_penalty": 0.0, "step": 0}
    state: dict[str, Any] = {"key": "", "extra": empty}
    with _quiet():
        load(state, checkpoint_id=folder, no_dist=ranks.size == 1)
    if state["key"] != key:
        raise StateUnusable(f"saved training state is for {state['key']!r}, not {key!r}")
    training = {"training": _TrainedState(module, optimizer)}
    with _quiet():
        load(training, checkpoint_id=folder, no_dist=ranks.size == 1)
    extra: dict[str, float] = state["extra"]
    return extra


@contextmanager
def _quiet() -> Iterator[None]:
    """Spare people the warning that one process saves what one process has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


class _TrainedState(Stateful):
    """Trained parameters and the optimizer's state by the parameters' names."""

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self._module = module
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._module, self._optimizer, options=_TRAINED_ONLY)
        names = {n for n, p in self._module.named_parameters() if p.requires_grad}
        # A frozen head that is tied to the embedding would come along under its second name.
        return {"model": {n: model[n] for n in names}, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(
            self._module,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_TRAINED_ONLY,
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> Path:
    """Write a model folder in Hugging Face format, whole or not at all."""
    with _atomic_folder(out) as staged:
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
    return out


def save_adapter(model: PreTrainedModel, out: Path) -> Path:
    """Write the adapter of a model as a folder of its own, whole or not at all."""
    with _atomic_folder(out) as staged:
        write_adapter(model, staged)
    return out


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write to; it replaces `out` at the end."""
    staged = partial_path(out)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    yield staged
    for file in staged.iterdir():
        file.chmod(0o644)  # safetensors makes its files readable by their owner alone
    fsync_tree(staged)
    replace_folder(staged, out)


def model_exists(folder: Path) -> bool:
    """Say whether `save_model` or `save_adapter` has finished in this folder."""
    return (folder / "config.json").exists() or is_adapter(folder)
