"""Measure this machine and the model of a folder, as input to `deploy.sizing.plan`."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError

from deploy.errors import DeployError
from deploy.settings import VLLM_ARGUMENTS
from deploy.sizing.models import default_model
from deploy.sizing.plan import GIB, Machine, Plan, plan
from deploy.sizing.processor import Dtype, query_gpus
from deploy.sizing.tuning import Tuning, choose_tune, tuning_of
from feedback.ledger.rows import RecordedLengths
from feedback.ledger.store import Ledger
from feedback.registry import open_registry
from learner.cycle.state import measured_rate
from learner.settings import LearnerSettings, Tune
from learner.sizing import EMBEDDINGS, MAX_PROMPTS, ModelShape, machine_memory
from protos.checkpoints.tensors import tensor_shapes
from serving.engine.passthrough import split_arguments, worker_count
from serving.settings import ServingSettings

_SIZES: Final = ("num_hidden_layers", "hidden_size", "vocab_size")
_CONTEXT: Final = "max_position_embeddings"


@cache
def this_machine() -> Machine:
    """Measure this machine once; GPUs count only if vLLM's GPU build is installed."""
    return Machine(available_cores(), machine_memory(), _gpus())


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _gpus() -> tuple[int, ...]:
    return tuple(int(each) * 2**20 for each in query_gpus("memory.total") if each.isdigit())


def serving_workers() -> int:
    """Return the number of workers that the arguments for vLLM ask for.

    Raises:
        ServingError: An argument is refused.

    """
    return worker_count(split_arguments(os.environ.get(VLLM_ARGUMENTS, "")))


def default_shape() -> ModelShape:
    """Return the shape of the default model that is shipped."""
    return shape_of(default_model())


def shape_of(folder: Path) -> ModelShape:
    """Read the shape of a folder's model from its configuration and its safetensors headers.

    Raises:
        DeployError: The folder holds no safetensors files, or one that is damaged.

    """
    architecture, config = _configuration(folder)
    parameters = linear_dimensions = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            shapes = tensor_shapes(file)
        except SafetensorError as error:
            raise DeployError(
                f"{file} is damaged ({error}); download or save the model again"
            ) from error
        for name, shape in shapes.items():
            parameters += int(np.prod(shape))
            if len(shape) == 2 and not any(part in name for part in EMBEDDINGS):
                linear_dimensions += sum(shape)
    if not parameters:
        raise DeployError(
            f"{folder} has no safetensors files; convert the model with 'plaudit import-model'"
        )
    return ModelShape(
        architecture=architecture,
        parameters=parameters,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        vocabulary=config["vocab_size"],
        linear_dimensions=linear_dimensions,
        context=config.get(_CONTEXT),
    )


def _configuration(folder: Path) -> tuple[str, dict[str, int]]:
    """Return a model's class and the sizes in its configuration, by their usual names.

    Importing transformers takes seconds, so it is asked only where a model has names of its own.
    """
    stored = json.loads((folder / "config.json").read_text())
    sizes = {name: stored[name] for name in (*_SIZES, _CONTEXT) if name in stored}
    if not sizes.keys() >= set(_SIZES):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder).get_text_config()
        found = {name: getattr(config, name, None) for name in (*_SIZES, _CONTEXT)}
        sizes = {name: value for name, value in found.items() if value is not None}
    return (stored.get("architectures") or [""])[0], sizes


def first_shape(home: Path) -> ModelShape | None:
    """Return the shape of version 1, which all later versions share; None before the first start.

    Raises:
        RegistryError: Version 1 is damaged, or the registry cannot be reached.

    """
    registry = open_registry(home)
    if 1 not in registry.versions():
        return None
    registry.verify(1)  # downloads it from a shared registry
    return shape_of(registry.path(1))


def tuning_here(home: Path, requested: Tune | None = None) -> Tuning | None:
    """Return the tuning of a home's policies; None before the first start.

    Raises:
        DeployError: Adapters are requested, but vLLM cannot serve them for this architecture.
        RegistryError: A version is damaged, or the registry cannot be reached.

    """
    shape = first_shape(home)
    if shape is None:
        return None
    return tuning_of(home, choose_tune(shape.architecture, shape.parameters, requested))


def recorded_lengths(home: Path) -> RecordedLengths:
    """Return the lengths of prompts and answers in a home's ledger; none before its first start."""
    file = home / "ledger.db"
    if not file.is_file():
        return RecordedLengths()
    ledger = Ledger(file)
    try:
        return ledger.lengths(MAX_PROMPTS)
    finally:
        ledger.close()


def plan_here(
    shape: ModelShape, dtype: Dtype, requested: Tune | None = None, home: Path | None = None
) -> Plan:
    """Plan a model on this machine with the current settings.

    Args:
        shape: Shape of the model.
        dtype: Number format that vLLM serves in.
        requested: What to train; None to choose by the settings and the model's size.
        home: Home folder with recorded answers and measured cycles; None before there is one.

    Raises:
        DeployError: The model does not fit, or vLLM cannot serve the requested adapters.

    """
    settings = LearnerSettings()
    tune = choose_tune(shape.architecture, shape.parameters, requested)
    result = plan(
        shape,
        this_machine(),
        tune=tune,
        dtype=dtype,
        settings=settings.model_copy(update={"tune": tune}).for_model(shape.parameters, 1.0),
        cache=int(ServingSettings.model_fields["kv_cache_gib"].default * GIB),
        workers=serving_workers(),
        lengths=RecordedLengths() if home is None else recorded_lengths(home),
        measured_rate=None if home is None else measured_rate(home),
    )
    if result.problem:
        raise DeployError("\n".join([*result.lines(), f"It does not fit: {result.problem}"]))
    return result
