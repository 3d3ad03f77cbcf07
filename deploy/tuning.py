"""How a home's model is tuned: all its weights, or adapters, and what serving must know of that."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from learner.settings import LearnerSettings, Tune, tune_for
from protos.registry import Registry
from protos.shared_registry import open_registry


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the learner trains, and the highest rank of an adapter to be served; 0 for none."""

    tune: Tune
    lora_rank: int

    def serving_environment(self) -> dict[str, str]:
        """Give the environment variables of the serving process."""
        return {"PLAUDIT_SERVING_LORA_RANK": str(self.lora_rank)} if self.lora_rank else {}


def tuning_of(home: Path, wanted: Tune | None) -> Tuning:
    """Decide for a home that has version 1: as wanted, else as the learner is set, else by size.

    Adapters that were published before stay servable, so that one can go back to them.

    Raises:
        RegistryError: Version 1 or an adapter is not whole.

    """
    settings, registry = LearnerSettings(), open_registry(home)
    registry.verify(1)
    tune = tune_for(_parameters(registry.path(1)), wanted or settings.tune)
    ranks = _ranks(registry) + ([settings.lora.rank] if tune == "lora" else [])
    return Tuning(tune, _served(max(ranks, default=0)))


def _served(rank: int) -> int:
    """Round up to a highest rank that vLLM can be set to: 8, 16, 32 and so on to 256."""
    return max(8, 1 << (rank - 1).bit_length()) if rank else 0


def _parameters(folder: Path) -> int:
    """Count the weights in a model folder without loading them."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "np") as weights:
            count += sum(math.prod(weights.get_slice(n).get_shape()) for n in weights.keys())  # noqa: SIM118
    return count


def _ranks(registry: Registry) -> list[int]:
    adapters = [v for v in registry.versions() if registry.manifest(v).adapter_base]
    for version in adapters:
        registry.verify(version)  # fetches it, where the registry is elsewhere
    files = (registry.path(version) / "adapter_config.json" for version in adapters)
    return [int(json.loads(file.read_text())["r"]) for file in files]
