"""What a home's learner trains, all weights or adapters, and what that requires of serving."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.errors import DeployError
from deploy.sizing.architectures import serves_adapters
from feedback.registry import open_registry
from learner.settings import LearnerSettings, Tune, tune_for
from protos.checkpoints.registry import Registry

LORA_RANK: Final = "PLAUDIT_SERVING_LORA_RANK"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the learner trains, and which adapters serving must be able to load.

    Attributes:
        tune: Whether the learner trains all weights or adapters.
        lora_rank: Highest rank of an adapter that vLLM must serve; 0 for no adapters.

    """

    tune: Tune
    lora_rank: int

    def serving_environment(self) -> dict[str, str]:
        """Return the environment variables that the serving process needs."""
        return {LORA_RANK: str(self.lora_rank)}


def choose_tune(architecture: str, parameters: int, requested: Tune | None = None) -> Tune:
    """Choose what to train: `requested`, else the learner's setting, else by the model's size.

    Raises:
        DeployError: Adapters are requested, but vLLM cannot serve them for this architecture.

    """
    requested = requested or LearnerSettings().tune
    tune = tune_for(parameters, requested)
    if tune == "full" or serves_adapters(architecture):
        return tune
    if requested:
        raise DeployError(
            f"vLLM cannot serve adapters of a {architecture}; train all weights with --tune full"
        )
    return "full"


def tuning_of(home: Path, tune: Tune) -> Tuning:
    """Return the tuning of a home, such that adapters already published can still be served.

    Raises:
        RegistryError: A published adapter is damaged.

    """
    registry = open_registry(home)
    ranks = _ranks(registry) + ([LearnerSettings().lora.rank] if tune == "lora" else [])
    return Tuning(tune, _served_rank(max(ranks, default=0)))


def _served_rank(rank: int) -> int:
    """Round up to a maximum rank that vLLM accepts: 8, 16, 32 and so on up to 256."""
    return max(8, 1 << (rank - 1).bit_length()) if rank else 0


def _ranks(registry: Registry) -> list[int]:
    adapters = [v for v in registry.versions() if registry.manifest(v).adapter_base]
    for version in adapters:
        registry.verify(version)  # downloads it from a shared registry
    files = (registry.path(version) / "adapter_config.json" for version in adapters)
    return [int(json.loads(file.read_text())["r"]) for file in files]
