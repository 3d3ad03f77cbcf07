"""Estimate where serving and learning run on a machine, and what memory and time they need.

The estimates are rough: they tell a machine that fits from one that does not, and minutes from
hours. They do not consider vLLM's sleep mode, in which chats would wait.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deploy.sizing.processor import Dtype
from feedback.ledger.rows import RecordedLengths
from learner.settings import LearnerSettings, Tune
from learner.sizing import Device, ModelShape, Sizing, activation_bytes, cpu_device, gpu_device

GIB: Final = 2**30
# Memory of PyTorch and vLLM themselves, in the processes of the server and the learner.
PROGRAM_BYTES: Final = 3 * GIB
USABLE_SHARE: Final = 0.9  # of the memory of a machine or a GPU
_FLOAT32: Final = 4  # bytes
_MIN_GPU_CACHE: Final = GIB  # vLLM's key-value cache and working memory


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware of a machine.

    Attributes:
        cores: Number of cores that Plaudit may use.
        memory: Bytes of main memory.
        gpus: Bytes of memory of each GPU.

    """

    cores: int
    memory: int
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where serving and learning run, and what they need.

    Attributes:
        shape: Shape of the model.
        tune: Whether the learner trains all weights or adapters.
        trained: Number of trained parameters.
        place: Description of where serving and learning run.
        serving: Bytes of vLLM's weights.
        cache: Bytes of vLLM's key-value cache.
        weights: Bytes of the learner's weights.
        gradients: Bytes of the learner's gradients.
        optimizer: Bytes of the learner's optimizer state.
        activations: Bytes of the learner's activations.
        gpu_share: Share of its GPU's memory that vLLM may use; None on a CPU.
        serving_environment: Environment variables of the serving process.
        learner_environment: Environment variables of the learner.
        sleep_mode: Whether vLLM would have to release the GPU while the learner works.
        sizing: Sizes of a learning cycle and why they are chosen, as sentences.
        seconds: Duration of a learning cycle on the processor; None if the learner uses a GPU.
        problem: Why the model does not fit and what to change; None if it fits.

    """

    shape: ModelShape
    tune: Tune
    trained: int
    place: str
    serving: int
    cache: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    gpu_share: float | None
    serving_environment: dict[str, str]
    learner_environment: dict[str, str]
    sleep_mode: bool
    sizing: tuple[str, ...]
    seconds: float | None
    problem: str | None

    @property
    def learner(self) -> int:
        """Bytes of the learner's memory."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def memory(self) -> int:
        """Bytes of memory that serving and learning need together, on the GPUs if there are any."""
        return (0 if self.gpu_share else PROGRAM_BYTES) + self.serving + self.cache + self.learner

    def lines(self) -> list[str]:
        """Return the plan in words, a line for each sentence."""
        trained = "all of them" if self.tune == "full" else f"{_count(self.trained)} in adapters"
        share = f" ({self.gpu_share:.0%} of the GPU)" if self.gpu_share is not None else ""
        lines = [
            f"Model: {_count(self.shape.parameters)} parameters; training {trained}.",
            f"Placement: {self.place}.",
            *self.sizing,
            f"Estimated memory: serving {size_text(self.serving)} weights + "
            f"{size_text(self.cache)} cache{share}; learning {size_text(self.learner)} "
            f"({size_text(self.weights)} weights, {size_text(self.gradients)} gradients, "
            f"{size_text(self.optimizer)} optimizer state, {size_text(self.activations)} "
            "activations).",
        ]
        if self.seconds is not None:
            lines.append(f"Estimated time of a learning cycle: {time_text(self.seconds)}.")
        return lines


def plan(
    shape: ModelShape,
    machine: Machine,
    *,
    tune: Tune,
    dtype: Dtype,
    settings: LearnerSettings,
    cache: int,
    workers: int = 1,
    lengths: RecordedLengths = RecordedLengths(),
    measured_rate: float | None = None,
) -> Plan:
    """Plan a model on a machine.

    Args:
        shape: Shape of the model.
        machine: Hardware to plan for.
        tune: Whether the learner trains all weights or adapters.
        dtype: Number format that vLLM serves in; the learner keeps float32 weights.
        settings: The learner's settings, adjusted to this model.
        cache: Bytes of vLLM's key-value cache on a CPU.
        workers: Number of GPUs that vLLM splits the model over.
        lengths: Recorded lengths of prompts and answers.
        measured_rate: Speed of an earlier cycle (`learner.sizing`); None before the first one.

    """
    sizing = Sizing(settings, shape, _learner_device(machine, workers), lengths, measured_rate)
    sizes = sizing.choose()
    trained = shape.parameters if tune == "full" else settings.lora.rank * shape.linear_dimensions
    serving = _serving_bytes(shape, dtype, on_gpu=bool(machine.gpus))
    frozen = shape.parameters if tune == "lora" else 0
    needs = _learner_bytes(shape, trained, frozen, sizes.apply_to(settings))
    placed = _place(machine, serving, cache, sum(needs.values()), workers)
    return Plan(
        shape=shape,
        tune=tune,
        trained=trained,
        serving=serving,
        cache=placed.cache,
        gpu_share=placed.gpu_share,
        place=placed.place,
        serving_environment=placed.serving_environment,
        learner_environment=placed.learner_environment,
        sleep_mode=placed.sleep_mode,
        sizing=tuple(sizing.lines(sizes)),
        seconds=None if machine.gpus else sizes.work / sizing.rate,
        problem=placed.problem,
        **needs,
    )


def _learner_device(machine: Machine, workers: int) -> Device:
    """Return what the learner computes on: the GPUs that serving leaves, or shares if none."""
    if not machine.gpus:
        return cpu_device(machine.memory, machine.cores)
    return gpu_device(machine.gpus[workers:] or machine.gpus[-1:])


def _serving_bytes(shape: ModelShape, dtype: Dtype, on_gpu: bool) -> int:
    """Return the bytes of vLLM's weights."""
    width = _FLOAT32 if dtype == "float32" else 2
    # On a CPU, vLLM repacks the weights during a swap and briefly holds two copies.
    return shape.parameters * width * (1 if on_gpu else 2)


def _learner_bytes(
    shape: ModelShape, trained: int, frozen: int, settings: LearnerSettings
) -> dict[str, int]:
    """Return the bytes of weights, gradients, optimizer state and activations.

    Args:
        shape: Shape of the model.
        trained: Number of trained parameters of each model.
        frozen: Number of parameters that the models share.
        settings: The learner's settings, with the sizes of a cycle.

    """
    return {
        # Reference, policy, critic and reward model; the gate loads another frozen copy.
        "weights": _FLOAT32 * (2 * frozen + 4 * trained),
        # Policy and critic are trained; AdamW keeps two moments of each.
        "gradients": _FLOAT32 * 2 * trained,
        "optimizer": _FLOAT32 * 2 * 2 * trained,
        "activations": activation_bytes(shape, settings),
    }


@dataclass(frozen=True, slots=True)
class _Placement:
    place: str
    cache: int
    gpu_share: float | None = None
    gpus: tuple[str, str] = ("", "")
    sleep_mode: bool = False
    problem: str | None = None

    @property
    def serving_environment(self) -> dict[str, str]:
        if self.gpu_share is None:
            # Compiling takes a minute or more, and makes decoding here at most half as fast again.
            return {"PLAUDIT_SERVING_ENFORCE_EAGER": "1"}
        share = str(self.gpu_share)
        return {"CUDA_VISIBLE_DEVICES": self.gpus[0], "PLAUDIT_SERVING_GPU_MEMORY_SHARE": share}

    @property
    def learner_environment(self) -> dict[str, str]:
        return {} if self.gpu_share is None else {"CUDA_VISIBLE_DEVICES": self.gpus[1]}


def _place(machine: Machine, serving: int, cache: int, learner: int, workers: int) -> _Placement:
    if not machine.gpus:
        need = PROGRAM_BYTES + serving + cache + learner
        place = f"serving and learning share {machine.cores} cores and {size_text(machine.memory)}"
        return _Placement(
            place, cache, problem=_memory_problem(need, machine.memory, "this machine")
        )
    numbers = [str(number) for number in range(len(machine.gpus))]
    own, others = numbers[:workers], numbers[workers:]
    if len(own) < workers:
        problem = (
            f"vLLM's arguments split the model over {workers} GPUs, but there are only "
            f"{len(own)}; lower --tensor-parallel-size or --pipeline-parallel-size"
        )
        return _Placement(f"serving on GPU {','.join(own)}", 0, USABLE_SHARE, problem=problem)
    part = math.ceil(serving / workers)
    if others:
        return _separate_gpus(machine.gpus, own, others, part, learner)
    return _share_gpus(own, min(machine.gpus), part, learner)


def _separate_gpus(
    sizes: Sequence[int], own: Sequence[str], others: Sequence[str], part: int, learner: int
) -> _Placement:
    """Return the placement of serving and learning on GPUs of their own.

    Args:
        sizes: Bytes of each GPU.
        own: Numbers of the GPUs for serving.
        others: Numbers of the GPUs for learning.
        part: Bytes of vLLM's weights on each GPU for serving.
        learner: Bytes of the learner.

    """
    label, memory = f"GPU {','.join(own)}", min(sizes[: len(own)])
    smallest = min(range(len(own), len(sizes)), key=sizes.__getitem__)
    problem = _memory_problem(
        part + _MIN_GPU_CACHE, memory, f"{label}, used for serving,"
    ) or _memory_problem(learner, sizes[smallest], f"GPU {smallest}, used for learning,")
    return _Placement(
        f"serving on {label}, learning on GPU {','.join(others)}",
        len(own) * max(0, int(memory * USABLE_SHARE) - part),
        USABLE_SHARE,
        (",".join(own), ",".join(others)),
        problem=problem,
    )


def _share_gpus(own: Sequence[str], memory: int, part: int, learner: int) -> _Placement:
    """Return the placement of serving and learning on the same GPUs, the learner on the last.

    Args:
        own: Numbers of the GPUs.
        memory: Bytes of the smallest of them.
        part: Bytes of vLLM's weights on each.
        learner: Bytes of the learner.

    """
    label, last, workers = f"GPU {','.join(own)}", own[-1], len(own)
    minimum = part + _MIN_GPU_CACHE
    share = math.floor(100 * (USABLE_SHARE - learner / memory)) / 100
    gpus = (",".join(own), last)
    if share * memory >= minimum:
        cache = workers * (int(share * memory) - part)
        return _Placement(f"serving and learning share {label}", cache, share, gpus)
    cache = workers * max(0, int(memory * USABLE_SHARE) - part)
    problem = _memory_problem(max(minimum, learner), memory, f"GPU {last}") or (
        f"serving and learning need {size_text(minimum + learner)} together, but GPU {last} has "
        f"{size_text(memory)}. They would have to take turns through vLLM's sleep mode, and chats "
        "would wait for minutes; use a second GPU or a smaller model"
    )
    return _Placement(
        f"serving and learning take turns on {label}", cache, USABLE_SHARE, gpus, True, problem
    )


def _memory_problem(need: int, have: int, where: str) -> str | None:
    if need <= have * USABLE_SHARE:
        return None
    return (
        f"it needs about {size_text(need)}, but {where} has {size_text(have)}, of which "
        f"{USABLE_SHARE:.0%} can be used; use a smaller model, or lower "
        "PLAUDIT_LEARNER_PPO__MICRO_TOKENS"
    )


def _count(number: int) -> str:
    for size, unit in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,}"


def size_text(number: int) -> str:
    """Return a number of bytes in words."""
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:.0f} MiB"


def time_text(seconds: float) -> str:
    """Return a duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
