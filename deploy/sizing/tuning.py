"""How a home's model is tuned: all its weights, or adapters, and what serving must know of that."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.errors import DeployError
from deploy.sizing.model_checks import serves_adapters
from learner.settings import LearnerSettings, Tune, tune_for
from protos.checkpoints.registry import Registry
from protos.checkpoints.shared_registry import open_registry

LORA_RANK: Final = "PLAUDIT_SERVING_LORA_RANK"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the learner trains, and the highest rank of an adapter to be served; 0 for none."""

    tune: Tune
    lora_rank: int

    def serving_environment(self) -> dict[str, str]:
        """Return the environment variables of the serving process."""
        return {LORA_RANK: str(self.lora_rank)}


def choose_tune(architecture: str, parameters: int, wanted: Tune | None = None) -> Tune:
    """Decide what is trained: as wanted, else as the learner is set, else by the model's size.

    Raises:
        DeployError: Adapters are wanted, and vLLM serves none of this architecture.

    """
    wanted = wanted or LearnerSettings().tune
    tune = tune_for(parameters, wanted)
    if tune == "full" or serves_adapters(architecture):
        return tune
    if wanted:
        raise DeployError(f"vLLM serves no adapters of a {architecture}: choose --tune full")
    return "full"


def tuning_of(home: Path, tune: Tune) -> Tuning:
    """Say what serving must know; adapters that were published before stay servable.

    Raises:
        RegistryError: One of these is not whole.

    """
    registry = open_registry(home)
    ranks = _ranks(registry) + ([LearnerSettings().lora.rank] if tune == "lora" else [])
    return Tuning(tune, _served_rank(max(ranks, default=0)))


def _served_rank(rank: int) -> int:
    """Round up to a highest rank that vLLM can be set to: 8, 16, 32 and so on to 256."""
    return max(8, 1 << (rank - 1).bit_length()) if rank else 0


def _ranks(registry: Registry) -> list[int]:
    adapters = [v for v in registry.versions() if registry.manifest(v).adapter_base]
    for version in adapters:
        registry.verify(version)  # fetches it, where the registry is elsewhere
    files = (registry.path(version) / "adapter_config.json" for version in adapters)
    return [int(json.loads(file.read_text())["r"]) for file in files]
