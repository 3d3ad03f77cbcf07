"""What the machine and a model folder hold, for `deploy.sizing.plan`."""

import os
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

from deploy.errors import DeployError
from deploy.sizing.plan import GIB, Machine, ModelShape, Plan, plan
from deploy.sizing.processor import Dtype
from deploy.sizing.tuning import Tuning, choose_tune, tuning_of
from learner.settings import LearnerSettings, PretrainSettings, Tune
from protos.checkpoints.shared_registry import open_registry
from protos.checkpoints.tensors import tensor_shapes
from serving.settings import ServingSettings

_EMBEDDINGS: Final = ("embed", "wte", "wpe", "lm_head")


def this_machine() -> Machine:
    """Look at this machine; GPUs count where vLLM's build for them is installed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return Machine(cores, memory, _gpus(), matmul_flops())


def _gpus() -> tuple[int, ...]:
    built = any(d.metadata["Name"] == "vllm" for d in metadata.distributions())
    if not built or shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return tuple(int(line) * 2**20 for line in found.stdout.split() if line.isdigit())


def matmul_flops(size: int = 1024, times: int = 16) -> float:
    """Measure a float32 matrix product: the fastest of a few, operations per second."""
    matrix = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds))


def default_shape() -> ModelShape:
    """Return that of the model that is trained here on the first start."""
    made = PretrainSettings()
    linear = [(made.hidden, made.hidden)] * 4 + [(made.hidden, made.feed_forward)] * 3
    weights = sum(a * b for a, b in linear) + 2 * made.hidden
    return ModelShape(
        architecture="LlamaForCausalLM",
        parameters=made.layers * weights + made.hidden * (made.vocabulary + 1),
        layers=made.layers,
        hidden=made.hidden,
        vocabulary=made.vocabulary,
        linear_dimensions=made.layers * sum(a + b for a, b in linear),
    )


def shape_of(folder: Path) -> ModelShape:
    """Read a model folder's, from its configuration and the headers of its safetensors.

    Raises:
        DeployError: It holds no safetensors.

    """
    from transformers import AutoConfig

    whole = AutoConfig.from_pretrained(folder)
    config = whole.get_text_config()
    parameters = linear_dimensions = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, shape in tensor_shapes(file).items():
            parameters += int(np.prod(shape))
            if len(shape) == 2 and not any(e in name for e in _EMBEDDINGS):
                linear_dimensions += sum(shape)
    if not parameters:
        raise DeployError(f"{folder} holds no safetensors; bring the model in with import-model")
    return ModelShape(
        architecture=(whole.architectures or [""])[0],
        parameters=parameters,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        linear_dimensions=linear_dimensions,
    )


def first_shape(home: Path) -> ModelShape | None:
    """Read the shape of version 1, which all later ones have; None where there is none yet.

    Raises:
        RegistryError: It is not whole, or the registry is away.

    """
    registry = open_registry(home)
    if 1 not in registry.versions():
        return None
    registry.verify(1)  # fetches it, where the registry is elsewhere
    return shape_of(registry.path(1))


def tuning_here(home: Path, wanted: Tune | None = None) -> Tuning | None:
    """Say how a home's policies are tuned; None where there is no version 1 yet.

    Raises:
        DeployError: They are wanted tuned as they cannot be served.
        RegistryError: A version is not whole, or the registry is away.

    """
    shape = first_shape(home)
    if shape is None:
        return None
    return tuning_of(home, choose_tune(shape.architecture, shape.parameters, wanted))


def plan_here(shape: ModelShape, dtype: Dtype, wanted: Tune | None = None) -> Plan:
    """Plan a model on this machine, with the settings in force, tuned as `wanted` if that is said.

    Raises:
        DeployError: It does not fit, or is wanted tuned as it cannot be; says what to change.

    """
    own, tune = LearnerSettings(), choose_tune(shape.architecture, shape.parameters, wanted)
    found = plan(
        shape,
        this_machine(),
        tune=tune,
        dtype=dtype,
        settings=own.model_copy(update={"tune": tune}).for_model(shape.parameters, 1.0),
        cache=int(ServingSettings.model_fields["kv_cache_gib"].default * GIB),
    )
    if found.problem:
        raise DeployError("\n".join([*found.lines(), f"It does not fit: {found.problem}"]))
    return found
