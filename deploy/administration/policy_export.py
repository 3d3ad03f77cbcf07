"""`plaudit policies export`: a version as a folder that transformers and a bare vLLM load."""

import json
import shutil
from pathlib import Path
from typing import Final

from deploy.administration.model_card import model_card
from deploy.errors import DeployError
from feedback.control.history import History
from feedback.control.versions import Version, Versions
from feedback.log.event_log import EventLog
from protos.checkpoints.registry import Registry, RegistryError

BASE: Final = "base"  # folder of the full weights below an adapter
_CARD: Final = "README.md"
_ADAPTER_CONFIG: Final = "adapter_config.json"
# Reports quote what people wrote, so they stay here.
_LEFT_OUT: Final = ("manifest.json", "report.*", _CARD)
_WEIGHTS: Final = ("*.safetensors", "*.safetensors.index.json", "config.json", *_LEFT_OUT)


def export_policy(
    registry: Registry, log: EventLog, version: int, out: Path, *, merge: bool = False
) -> Path:
    """Write a version with its tokenizer, generation config and a model card to a folder.

    An adapter is written with its base in a folder of its own, or merged into it.

    Args:
        registry: Registry of the checkpoints.
        log: Log of the installation, which knows the votes behind each version.
        version: Number of the version.
        out: Folder to write to; absent or empty.
        merge: Merge an adapter into the weights.

    Raises:
        DeployError: The version does not exist or is damaged, or `out` has files in it.

    """
    from learner.models.saving import atomic_folder

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DeployError(f"{out} is not an empty folder; choose another one")
    try:
        manifest = registry.verify(version)
        base = int(manifest.adapter_base)
        if base:
            registry.verify(base)
    except RegistryError as error:
        raise DeployError(str(error)) from error
    card = model_card(_lineage(registry, log, version), registry.manifest(1).base, merged=merge)
    with atomic_folder(out) as staged:
        if not base:
            _copy(registry.path(version), staged, _LEFT_OUT)
        elif merge:
            _write_merged(registry.path(base), registry.path(version), staged)
        else:
            _write_adapter(registry.path(base), registry.path(version), staged, out)
        (staged / _CARD).write_text(card)
    return out


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder to a new or existing private repository; return its address.

    Raises:
        DeployError: The folder holds an adapter, whose base would not be found there, or the
            upload failed.

    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if (folder / _ADAPTER_CONFIG).is_file():
        raise DeployError(
            "an adapter names its base by a folder of this machine; push it with --merge"
        )
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DeployError(
            f"{repository} could not be written ({error}); log in with 'hf auth login', and check "
            "that the id is NAME/MODEL"
        ) from error
    return f"https://huggingface.co/{repository}"


def _copy(source: Path, target: Path, ignored: tuple[str, ...]) -> None:
    shutil.copytree(
        source, target, ignore=shutil.ignore_patterns(*ignored), dirs_exist_ok=True, symlinks=False
    )


def _write_merged(base: Path, adapter: Path, target: Path) -> None:
    """Write the base with the adapter in its weights, in the number format of the base."""
    import torch
    from transformers import AutoConfig

    from learner.models.adapters import merge_adapter
    from learner.models.loading import load_model, load_tokenizer

    model = merge_adapter(load_model(base), adapter)
    dtype = AutoConfig.from_pretrained(base).dtype
    model.to(dtype if isinstance(dtype, torch.dtype) else torch.float32).save_pretrained(target)
    load_tokenizer(base).save_pretrained(target)


def _write_adapter(base: Path, adapter: Path, target: Path, out: Path) -> None:
    """Write an adapter with its tokenizer, and its base in a folder below; `out` is their place."""
    _copy(base, target / BASE, _LEFT_OUT)
    _copy(base, target, _WEIGHTS)
    _copy(adapter, target, _LEFT_OUT)
    config = json.loads((target / _ADAPTER_CONFIG).read_text())
    config["base_model_name_or_path"] = str(out.absolute() / BASE)
    (target / _ADAPTER_CONFIG).write_text(json.dumps(config, indent=2))


def _lineage(registry: Registry, log: EventLog, version: int) -> list[Version]:
    """Return a version and its ancestors, the latest first."""
    history = History(log)
    history.poll()
    known = {each.version: each for each in Versions(registry).list_versions(history.snapshot())}
    found = []
    while version in known:
        found.append(known[version])
        version = known[version].parent
    return found
