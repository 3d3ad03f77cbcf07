"""Check that a checkpoint can replace the live one, without loading it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from protos.checkpoints import tensors
from protos.checkpoints.registry import Registry
from protos.plaudit.v1.checkpoint_pb2 import CHECKPOINT_KIND_LORA
from serving.errors import CheckpointIncompatible

# Keys of config.json that may differ between checkpoints of one model family.
_FREE_KEYS = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}
# PEFT names tensors `base_model.model.MODULE.lora_A.weight`, MODULE being the base's name.
_PREFIX: Final = "base_model.model."
_A: Final = ".lora_A.weight"
_B: Final = ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class StagedCheckpoint:
    """A checkpoint that may be loaded.

    Attributes:
        version: Number of the version.
        base: Version of the full weights that the version is or adapts.
        weights: Folder of the full weights.
        adapter: Folder of the adapter; None for full weights.

    """

    version: int
    base: int
    weights: Path
    adapter: Path | None


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Read the names and shapes of all tensors from the safetensors headers in `folder`.

    Raises:
        CheckpointIncompatible: There is no readable safetensors file.

    """
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            shapes.update(tensors.tensor_shapes(file))
        except (SafetensorError, OSError) as error:
            raise CheckpointIncompatible(f"{file.name} has no readable header") from error
    if not shapes:
        raise CheckpointIncompatible(f"{folder.name} has no safetensors file")
    return shapes


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointIncompatible(f"{folder.name} has no readable {name}") from error
    return found


def full_weights_version(registry: Registry, version: int) -> int:
    """Return the version of the full weights that a version is or adapts.

    Raises:
        CheckpointInvalid: It does not exist.
        CheckpointIncompatible: It is an adapter whose manifest names no base.

    """
    manifest = registry.manifest(version)
    if manifest.kind != CHECKPOINT_KIND_LORA:
        return version
    if not manifest.adapter_base:
        raise CheckpointIncompatible(
            f"version {version} is an adapter, but its manifest names no base"
        )
    return int(manifest.adapter_base)


def stage(
    registry: Registry, version: int, loaded: Path | None, lora_rank: int = 0
) -> StagedCheckpoint:
    """Verify a checkpoint's files, and check that it can replace the weights in `loaded`.

    Args:
        registry: Registry of the checkpoint.
        version: Number of the version.
        loaded: Folder of the full weights that are loaded; None for none.
        lora_rank: Largest rank of an adapter; 0 if adapters cannot be loaded.

    Raises:
        CheckpointInvalid: The checkpoint or its base is incomplete or altered.
        CheckpointIncompatible: Its tensors or its configuration do not match.

    """
    registry.verify(version)
    base = full_weights_version(registry, version)
    weights = registry.path(base)
    if base != version and weights != loaded:
        registry.verify(base)
        if full_weights_version(registry, base) != base:
            raise CheckpointIncompatible(
                f"version {version} adapts version {base}, which is itself an adapter"
            )
    if loaded not in (None, weights):
        _check_weights(base, weights, loaded)
    if base == version:
        return StagedCheckpoint(version, base, weights, None)
    check_adapter(registry.path(version), weights, lora_rank)
    return StagedCheckpoint(version, base, weights, registry.path(version))


def _check_weights(version: int, folder: Path, loaded: Path) -> None:
    new, old = tensor_shapes(folder), tensor_shapes(loaded)
    if new != old:
        names = sorted(k for k in new.keys() | old.keys() if new.get(k) != old.get(k))
        raise CheckpointIncompatible(
            f"version {version}: tensors differ from those of the live policy: {names[:5]}"
        )
    new_config, old_config = (
        {k: v for k, v in _json(path, "config.json").items() if k not in _FREE_KEYS}
        for path in (folder, loaded)
    )
    if new_config != old_config:
        keys = new_config.keys() | old_config.keys()
        differing = sorted(k for k in keys if new_config.get(k) != old_config.get(k))
        raise CheckpointIncompatible(f"version {version}: config.json differs in {differing}")


def adapter_rank(folder: Path) -> int:
    """Return the largest rank in a LoRA adapter's configuration.

    Raises:
        CheckpointIncompatible: The configuration cannot be read, or is not LoRA's.

    """
    config = _json(folder, "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise CheckpointIncompatible(
            f"{folder.name} is not a LoRA adapter: {config.get('peft_type')!r}"
        )
    return max([int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values())])


def check_adapter(folder: Path, base: Path, lora_rank: int) -> None:
    """Check that a LoRA adapter in PEFT's format fits a base.

    Raises:
        CheckpointIncompatible: Its rank is too high, it uses options that vLLM does not serve, or
            it has tensors that do not match the base.

    """
    rank, name = adapter_rank(folder), folder.name
    if not lora_rank:
        raise CheckpointIncompatible(
            f"{name} is an adapter, and this replica was started without adapters: "
            f"start it with PLAUDIT_SERVING_LORA_RANK={rank}"
        )
    if rank > lora_rank:
        raise CheckpointIncompatible(
            f"{name} has rank {rank}, but this replica accepts at most {lora_rank}"
        )
    config = _json(folder, "adapter_config.json")
    for option in ("use_dora", "lora_bias", "modules_to_save"):
        if config.get(option):
            raise CheckpointIncompatible(f"{name}: adapters with {option} are not served")
    shapes, base_shapes = tensor_shapes(folder), tensor_shapes(base)
    for tensor in sorted(shapes):
        module = tensor.removesuffix(_A).removesuffix(_B)
        base_shape = base_shapes.get(module.removeprefix(_PREFIX) + ".weight")
        if module == tensor or base_shape is None:
            raise CheckpointIncompatible(f"{name}: {base.name} has no counterpart of {tensor}")
        a, b = shapes.get(module + _A), shapes.get(module + _B)
        if not a or not b or [b[0], a[1]] != base_shape or a[0] != b[1] or a[0] > lora_rank:
            raise CheckpointIncompatible(
                f"{name}: {module}: A {a} and B {b} do not match the base's {base_shape}"
            )
