"""Write model folders in Hugging Face format and adapter folders in PEFT's, atomically."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learner.models.adapters import is_adapter, write_adapter
from protos.checkpoints.durable import fsync_tree, partial_path, replace_folder


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> Path:
    """Write model and tokenizer to the folder `out`, replacing it atomically; return `out`."""
    with atomic_folder(out) as staged:
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
    return out


def save_adapter(model: PreTrainedModel, out: Path) -> Path:
    """Write the adapter of a model to the folder `out`, replacing it atomically; return `out`."""
    with atomic_folder(out) as staged:
        write_adapter(model, staged)
    return out


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write to; it replaces `out` at the end."""
    staged = partial_path(out)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    yield staged
    for file in staged.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # safetensors makes its files readable only by their owner
    fsync_tree(staged)
    replace_folder(staged, out)


def model_exists(folder: Path) -> bool:
    """Check whether `save_model` or `save_adapter` has completed for this folder."""
    return (folder / "config.json").exists() or is_adapter(folder)
