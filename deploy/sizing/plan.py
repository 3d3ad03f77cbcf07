"""What a model will need on a machine: where each part goes, memory, time; a pure function.

All figures are rough, meant to tell a machine that fits from one that does not, and minutes from
hours. Left out: several GPUs for vLLM, and its sleep mode, in which chats would wait.
"""

import math
from dataclasses import dataclass
from typing import Final

from deploy.sizing.processor import Dtype
from learner.settings import LearnerSettings, Tune

GIB: Final = 2**30
PROGRAM_BYTES: Final = (
    3 * GIB
)  # PyTorch and vLLM themselves, in the server's and learner's processes
USABLE_SHARE: Final = 0.9  # of a machine's or a GPU's memory
_FLOAT32: Final = 4
_LEAST_CACHE: Final = GIB  # vLLM's on a GPU, with what it computes in
# Bytes that a layer keeps for its gradient, per token and hidden unit: 34 in 16 bits (Korthikanti
# et al. 2022, arXiv:2205.05198, table 2, without attention scores), twice that in float32.
_ACTIVATION_BYTES: Final = 68
_LOGITS: Final = 3  # of each token: logits, their log-softmax, its gradient
_PROMPT: Final = 32  # tokens of a typical question
# PPO was half of the measured cycles, and ran at .6 of the speed of a large matrix product.
_CYCLE_PER_PPO: Final = 2.0
_EFFICIENCY: Final = 0.6


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides what it needs.

    Attributes:
        architecture: Name of its class in transformers and vLLM.
        sides: Inputs and outputs of all its linear layers together, for the size of adapters.

    """

    architecture: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    linear_dimensions: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute on.

    Attributes:
        memory: In bytes.
        gpus: The memory of each, in bytes.
        flops: Of a large float32 matrix product on its processor, per second.

    """

    cores: int
    memory: int
    gpus: tuple[int, ...]
    flops: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the parts go and what they need; bytes, seconds.

    Attributes:
        serving: Weights in vLLM.
        cache: vLLM's key-value cache.
        weights, gradients, optimizer, activations: The learner's.
        gpu_share: vLLM's of its GPU; None on a CPU.
        sleep_mode: vLLM must give the GPU up while the learner works.
        seconds: A learning cycle on the processor; None where the learner is on a GPU.
        problem: Why it does not fit and what to change; None where it fits.

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
    seconds: float | None
    problem: str | None

    @property
    def learner(self) -> int:
        """The learner's bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def lines(self) -> list[str]:
        """Say it in a few lines."""
        tuned = "all of them" if self.tune == "full" else f"{_count(self.trained)} in adapters"
        share = f" ({self.gpu_share:.0%} of the GPU)" if self.gpu_share is not None else ""
        lines = [
            f"Model: {_count(self.shape.parameters)} parameters; training {tuned}.",
            f"Place: {self.place}.",
            f"Memory, roughly: serving {_gib(self.serving)} weights + {_gib(self.cache)} cache"
            f"{share}; learning {_gib(self.learner)} ({_gib(self.weights)} weights, "
            f"{_gib(self.gradients)} gradients, {_gib(self.optimizer)} optimizer, "
            f"{_gib(self.activations)} activations).",
        ]
        if self.seconds is not None:
            lines.append(f"A learning cycle: about {_time(self.seconds)}, a rough estimate.")
        return lines


def plan(
    shape: ModelShape,
    machine: Machine,
    *,
    tune: Tune,
    dtype: Dtype,
    settings: LearnerSettings,
    cache: int,
) -> Plan:
    """Plan a model on a machine.

    Args:
        dtype: That vLLM serves in; the learner keeps float32 weights.
        settings: The learner's, as they fit this model.
        cache: Bytes of vLLM's key-value cache on a CPU.

    """
    trained = shape.parameters if tune == "full" else settings.lora.rank * shape.linear_dimensions
    width = _FLOAT32 if dtype == "float32" else 2
    # vLLM packs weights anew while it swaps, so there are two of them for a moment.
    serving = shape.parameters * width * (1 if machine.gpus else 2)
    # Reference, policy, critic and reward model share what is frozen; the gate reads a whole one.
    frozen = 0 if tune == "full" else 2 * shape.parameters
    tokens = settings.ppo.micro_tokens
    needs = {
        "weights": _FLOAT32 * (frozen + 4 * trained),
        "gradients": _FLOAT32 * 2 * trained,  # policy and critic
        "optimizer": _FLOAT32 * 2 * 2 * trained,  # AdamW's two moments of each
        "activations": tokens
        * (
            2 * _ACTIVATION_BYTES * shape.hidden * shape.layers
            + _LOGITS * _FLOAT32 * shape.vocabulary
        ),
    }
    placed = _place(machine, serving, cache, sum(needs.values()))
    flops = _cycle_flops(shape, settings)
    seconds = None if machine.gpus else flops / (machine.flops * _EFFICIENCY)
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
        seconds=seconds,
        problem=placed.problem,
        **needs,
    )


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
            return {}
        share = str(self.gpu_share)
        return {"CUDA_VISIBLE_DEVICES": self.gpus[0], "PLAUDIT_SERVING_GPU_MEMORY_SHARE": share}

    @property
    def learner_environment(self) -> dict[str, str]:
        return {} if self.gpu_share is None else {"CUDA_VISIBLE_DEVICES": self.gpus[1]}


def _place(machine: Machine, serving: int, cache: int, learner: int) -> _Placement:
    if not machine.gpus:
        need = PROGRAM_BYTES + serving + cache + learner
        place = f"serving and learning share {machine.cores} cores, {_gib(machine.memory)}"
        return _Placement(
            place, cache, problem=_memory_problem(need, machine.memory, "this machine")
        )
    first = machine.gpus[0]
    least = serving + _LEAST_CACHE
    if len(machine.gpus) > 1:
        cache = max(0, int(first * USABLE_SHARE) - serving)
        smallest = min(range(1, len(machine.gpus)), key=machine.gpus.__getitem__)
        problem = _memory_problem(least, first, "GPU 0, which serves,") or _memory_problem(
            learner, machine.gpus[smallest], f"GPU {smallest}, which learns,"
        )
        others = ",".join(map(str, range(1, len(machine.gpus))))
        place = f"serving on GPU 0, learning on GPU {others}"
        return _Placement(place, cache, USABLE_SHARE, ("0", others), problem=problem)
    share = math.floor(100 * (USABLE_SHARE - learner / first)) / 100
    if share * first >= least:
        cache = int(share * first) - serving
        return _Placement("serving and learning share GPU 0", cache, share, ("0", "0"))
    cache = max(0, int(first * USABLE_SHARE) - serving)
    problem = _memory_problem(max(least, learner), first, "GPU 0") or (
        f"serving and learning need {_gib(least + learner)} together, GPU 0 has {_gib(first)}: "
        "they would have to take turns by vLLM's sleep mode, and chats would wait for minutes; "
        "use a second GPU or a smaller model"
    )
    return _Placement(
        "serving and learning take turns on GPU 0", cache, USABLE_SHARE, ("0", "0"), True, problem
    )


def _memory_problem(need: int, have: int, where: str) -> str | None:
    if need <= have * USABLE_SHARE:
        return None
    return (
        f"it needs about {_gib(need)}, and {where} has {_gib(have)}, of which {USABLE_SHARE:.0%} "
        "can be used; take a smaller model, or lower PLAUDIT_LEARNER_PPO__MICRO_TOKENS"
    )


def _cycle_flops(shape: ModelShape, settings: LearnerSettings) -> float:
    """Count 2 operations per parameter and token forward, 4 backward."""
    ppo = settings.ppo
    answers = ppo.iterations * ppo.rollouts * (_PROMPT + ppo.max_tokens / 2)
    text = ppo.iterations * ppo.epochs * ppo.minibatches * ppo.text_rows * ppo.text_row
    # Sampled; read by policy, reference, critic and reward model; learned by policy and critic.
    each = 2 + 2 * 4 + 6 * 2 * ppo.epochs
    return _CYCLE_PER_PPO * shape.parameters * (each * answers + 6 * text)


def _count(number: int) -> str:
    for size, unit in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,}"


def _gib(number: int) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
