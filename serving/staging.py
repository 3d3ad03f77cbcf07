"""Whether a checkpoint can take the place of the one that is live, without loading it."""

import json
from pathlib import Path
from typing import Any

from protos.registry import Registry
from serving.errors import CheckpointUnfit

# What may differ between two checkpoints of one model family.
_FREE_KEYS = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Read the names and shapes of all tensors from the safetensors headers in `folder`.

    Raises:
        CheckpointUnfit: There is no readable safetensors file.

    """
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        except (ValueError, OSError) as error:
            raise CheckpointUnfit(f"{file.name} has no readable header") from error
        shapes.update({k: v["shape"] for k, v in header.items() if k != "__metadata__"})
    if not shapes:
        raise CheckpointUnfit(f"{folder.name} holds no safetensors")
    return shapes


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointUnfit(f"{folder.name} has no readable config.json") from error
    return {k: v for k, v in config.items() if k not in _FREE_KEYS}


def stage(registry: Registry, version: int, live: Path | None) -> Path:
    """Verify a checkpoint's files, and that it fits where the one in `live` was loaded.

    Returns:
        Its folder.

    Raises:
        CheckpointInvalid: It is incomplete or altered.
        CheckpointUnfit: Its tensors or its configuration differ from the live one's.

    """
    registry.verify(version)
    folder = registry.path(version)
    if live is None:
        return folder
    new, old = tensor_shapes(folder), tensor_shapes(live)
    if new != old:
        names = sorted(k for k in new.keys() | old.keys() if new.get(k) != old.get(k))
        raise CheckpointUnfit(
            f"version {version}: tensors differ from the live policy: {names[:5]}"
        )
    new_config, old_config = _config(folder), _config(live)
    if new_config != old_config:
        keys = new_config.keys() | old_config.keys()
        differing = sorted(k for k in keys if new_config.get(k) != old_config.get(k))
        raise CheckpointUnfit(f"version {version}: config.json differs in {differing}")
    return folder
